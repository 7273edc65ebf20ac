"""The checkpoints of stage two: one file with everything that the next step depends on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from diffusers.training_utils import EMAModel
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.lr_scheduler import LRScheduler

from autoencoder.checkpoint import fingerprint, load_autoencoder
from autoencoder.common.checkpoints import defect_of
from autoencoder.common.errors import UserError
from autoencoder.common.files import atomic_path
from autoencoder.common.run_folder import RunFolder
from generator.averages import whole_average
from generator.dit import STATISTICS, VidTwinDiT

# Whole tensors on the CPU of the main process, by the names of the parameters: so a checkpoint fits any number of
# processes, sharded or not.
FULL_STATE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class TrainingState:
    """The state of a training, saved to and loaded from one file without pickled code.

    Args:
        model: the transformer, whole or sharded.
        optimizer: the optimiser of its parameters, as accelerate prepared it.
        schedule: schedule of the learning rate.
        averages: moving averages of the parameters.
        autoencoder: fingerprint of the autoencoder whose latents the model is trained on.
        accelerator: the run's accelerator.
    """

    def __init__(
        self,
        model: VidTwinDiT,
        optimizer: AcceleratedOptimizer,
        schedule: LRScheduler,
        averages: Sequence[EMAModel],
        autoencoder: str,
        accelerator: Accelerator,
    ):
        self.model, self.optimizer, self.schedule, self.averages = model, optimizer, schedule, averages
        self.autoencoder, self.accelerator = autoencoder, accelerator

    def save(self, path: Path, step: int) -> None:
        """Write a checkpoint, atomically; all processes must call this, and the main one writes."""
        averages = [average.state_dict() | {"shadow_params": self._on_cpu(average)} for average in self.averages]
        state = {
            "step": step,
            "autoencoder": self.autoencoder,
            "averages": averages,
            "model": get_model_state_dict(self.model, options=FULL_STATE),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=FULL_STATE),
            "schedule": self.schedule.state_dict(),
            "statistics": {name: self.model.config[name] for name in STATISTICS},
        }
        if self.accelerator.is_main_process:
            with atomic_path(path) as temporary:
                torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Load a checkpoint; all processes must call this.

        Raises:
            UserError: if it belongs to the latents of another autoencoder, has another number of moving averages, or
                was written by an earlier version.
        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        self._check(path, state)
        for average, saved in zip(self.averages, state["averages"], strict=True):
            set_model_state_dict(self.model, saved.pop("shadow_params"), options=FULL_STATE)
            average.load_state_dict(saved)
            for shadow, parameter in zip(average.shadow_params, self.model.parameters(), strict=True):
                shadow.copy_(parameter.detach())
        # Before the weights, because it fills the state of the optimiser by a step of length 0.
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, state["optimizer"], options=FULL_STATE)
        set_model_state_dict(self.model, state["model"], options=FULL_STATE)
        self.schedule.load_state_dict(state["schedule"])
        if "statistics" in state:  # earlier versions always took those of the cache
            self.model.set_statistics(**state["statistics"])

    def _on_cpu(self, average: EMAModel) -> dict[str, torch.Tensor]:
        whole = whole_average(self.model, average, keep=self.accelerator.is_main_process)
        return {name: weight.cpu() for name, weight in whole}

    def _check(self, path: Path, state: dict[str, Any]) -> None:
        if "averages" not in state:
            raise UserError(f"{path} has the form of an earlier version, which cannot be resumed: begin a new run")
        _check_autoencoder(path, state["autoencoder"], self.autoencoder)
        if len(state["averages"]) != len(self.averages):
            second = self.averages[1].decay if len(self.averages) > 1 else None
            raise UserError(
                f"{path} holds {len(state['averages'])} moving averages, second_ema_decay={second} asks for "
                f"{len(self.averages)}: go on as the run began"
            )


def check_autoencoder(folder: RunFolder, autoencoder: str) -> None:
    """Refuse to go on with a run on the latents of another autoencoder, before any are encoded.

    Args:
        folder: the run's folder, which may hold no checkpoint yet.
        autoencoder: fingerprint of the autoencoder to go on with.

    Raises:
        UserError: naming both fingerprints.
    """
    known = _known_autoencoder(folder)
    if known is not None:
        _check_autoencoder(folder.newest_checkpoint()[0], known, autoencoder)


def is_same_autoencoder(folder: RunFolder, saved: str, wanted: str) -> bool:
    """Whether an autoencoder in another folder is the one whose latents a run learns, by fingerprint.

    Args:
        folder: the run's folder.
        saved: folder of the autoencoder in the run's config.
        wanted: folder of the autoencoder to go on with.
    """
    known = _known_autoencoder(folder)
    if known is None and (Path(saved) / "config.json").is_file():
        known = fingerprint(load_autoencoder(saved, "cpu"))
    # Where nothing is known, nothing is left of the run that could be another one's.
    return known is None or fingerprint(load_autoencoder(wanted, "cpu")) == known


def _known_autoencoder(folder: RunFolder) -> str | None:
    """Fingerprint in the newest checkpoint of a run; None where there is none, or it is damaged."""
    checkpoint, _ = folder.newest_checkpoint()
    if checkpoint is None or defect_of(checkpoint) is not None:
        return None
    return torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True).get("autoencoder")


def _check_autoencoder(path: Path, known: str, wanted: str) -> None:
    if wanted != known:
        raise UserError(
            f"{path} was trained on the latents of the autoencoder {known}, not of {wanted}: give its folder with "
            "--autoencoder"
        )
