"""The training loop of stage two, on accelerate: optimisation, moving average, checkpoints, records."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from autoencoder.cost import count_flops
from autoencoder.data.stream import PositionSampler
from autoencoder.files import atomic_path
from autoencoder.run import RunFolder
from autoencoder.seeding import derive_seed, generators
from generator.config import TrainConfig
from generator.dit import VidTwinDiT
from generator.latent_cache import LatentCache
from generator.objective import diffusion_loss


class GeneratorTrainer:
    """Trains a `VidTwinDiT` on the latents of a cache.

    One step is one optimiser step: every process takes its equal share of the batch through in equal micro-batches, so
    the mean of their losses is the loss of the batch. All noise is drawn per sample from generators seeded by its
    position in the run, dropout by (seed, rank, step); the position in the data is a function of the step.

    Args:
        model: the transformer, built for the cache.
        cache: the training set.
        config: of the run.
        folder: of the run; the newest checkpoint in it is loaded.
        accelerator: its mixed precision is that of the config.

    Attributes:
        model: the transformer with the weights of the last step.
        step: optimiser steps done.
        scalars: the last record, by TensorBoard tag.
        writer: TensorBoard's, None but in the main process.

    Raises:
        ValueError: if the processes and micro-batches do not divide the batch, or the checkpoint was trained on the
            latents of another autoencoder.
    """

    def __init__(
        self, model: VidTwinDiT, cache: LatentCache, config: TrainConfig, folder: RunFolder, accelerator: Accelerator
    ):
        parts = accelerator.num_processes * config.accumulate
        if config.batch_size % parts:
            raise ValueError(
                f"batch_size={config.batch_size} cannot be split over {accelerator.num_processes} processes with "
                f"{config.accumulate} micro-batches each"
            )
        self.cache, self.config, self.folder, self.accelerator = cache, config, folder, accelerator
        self.flops_per_step = 3 * _forward_flops(model) * config.batch_size
        optimizer, self.schedule = config.optimizer.build(model, config.max_steps)
        if config.attention_backend:
            model.set_attention_backend(config.attention_backend)
        if config.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        # The schedule stays outside: accelerate would step it once per process.
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.model = model
        self.ema = EMAModel(model.parameters(), decay=config.ema_decay)
        self.step = self._load_checkpoint()
        self.scalars: dict[str, float] = {}
        self.writer = self._open_writer() if accelerator.is_main_process else None

    def run(self, callbacks: Sequence[Callable[["GeneratorTrainer"], None]] = (), progress: bool = True) -> None:
        """Train to `config.max_steps`.

        Args:
            callbacks: called with the trainer, in all processes, after every step and before its checkpoint.
            progress: whether the main process shows a bar.

        Raises:
            FloatingPointError: if the gradient is not finite.
        """
        config, hide = self.config, not (progress and self.accelerator.is_main_process)
        self._window_start, self._window_step = time.perf_counter(), self.step
        try:
            with tqdm(total=config.max_steps, initial=self.step, desc="training", unit="step", disable=hide) as bar:
                for batch in self._batches():
                    terms, learning_rate = self._train_step(batch)
                    self.step += 1
                    if self.is_due(config.log_every):
                        self._log(terms, learning_rate)
                        bar.set_postfix({"loss": f"{self.scalars['train/loss']:.4f}"}, refresh=False)
                    bar.update()
                    for callback in callbacks:
                        callback(self)
                    if self.is_due(config.checkpoint_every):
                        self._save_checkpoint()
        finally:
            if self.writer:
                self.writer.close()

    def is_due(self, every: int) -> bool:
        """Whether what is done every so many steps, and after the last one, is to be done now."""
        return self.step % every == 0 or self.step == self.config.max_steps

    @contextmanager
    def ema_weights(self) -> Iterator[VidTwinDiT]:
        """The model with the moving average for weights, for as long as the block runs."""
        parameters = list(self.model.parameters())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield self.model
        finally:
            self.ema.restore(parameters)

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        """This process's share of the batches that are left, as (position, index) pairs."""
        batches = PositionSampler(
            len(self.cache),
            self.config.batch_size,
            self.config.seed,
            start_step=self.step,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        return islice(batches, max(0, self.config.max_steps - self.step))

    def _train_step(self, batch: list[tuple[int, int]]) -> tuple[dict[str, torch.Tensor], float]:
        """One optimiser step; returns this process's mean losses and the gradient norm, and the learning rate."""
        torch.manual_seed(derive_seed(self.config.seed, "dropout", self.accelerator.process_index, self.step))
        self.optimizer.zero_grad()
        terms = self._accumulate_gradients(batch)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.optimizer.max_grad_norm)
        if not norm.isfinite():  # the norm is that of all processes, so they stop together
            raise FloatingPointError(
                f"step {self.step + 1}: the loss is {terms['loss'].item()}, its gradient norm {norm.item()}; the run "
                "stops, the last checkpoint is good. A lower optimizer.learning_rate or precision=fp32 may help"
            )
        learning_rate = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        self.ema.step(self.model.parameters())
        return terms | {"gradient_norm": norm}, learning_rate

    def _accumulate_gradients(self, batch: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """Backward over the micro-batches; returns the means of the losses."""
        count = self.config.accumulate
        size = len(batch) // count
        sums: dict[str, torch.Tensor] = {}
        for part in range(count):
            is_last = part + 1 == count
            with nullcontext() if is_last else self.accelerator.no_sync(self.wrapped):
                terms = self._losses(batch[part * size : (part + 1) * size])
                self.accelerator.backward(terms["loss"] / count)
            sums = {name: sums.get(name, 0) + term.detach() / count for name, term in terms.items()}
        return sums

    def _losses(self, batch: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """Losses of (position, index) pairs."""
        positions, indices = zip(*batch, strict=True)
        device = self.accelerator.device
        latents = self.model.normalize(self.cache.latents(indices).to(device))
        losses = diffusion_loss(
            self.wrapped,
            self.model.layout.pack(latents),
            self.cache.labels[list(indices)].to(device),
            self.config.objective,
            generators(self.config.seed, "objective", positions),
            mask=self.model.mask,
            num_structure_tokens=self.model.layout.num_structure_tokens,
            null_label=self.model.config.num_classes,
        )
        return {"loss": losses.total, "loss_structure": losses.structure, "loss_dynamics": losses.dynamics}

    def _open_writer(self) -> SummaryWriter:
        writer = SummaryWriter(str(self.folder.tensorboard), purge_step=self.step + 1 if self.step else 0)
        device = self.accelerator.device.type
        if device != "cuda" and not self.step:
            writer.add_text("memory/peak", f"not measured on {device}", 0)
        return writer

    def _log(self, terms: dict[str, torch.Tensor], learning_rate: float) -> None:
        values = self.accelerator.reduce(torch.stack(list(terms.values())), "mean").tolist()
        seconds = time.perf_counter() - self._window_start
        steps = self.step - self._window_step
        self._window_start, self._window_step = time.perf_counter(), self.step
        scalars = {f"train/{name}": value for name, value in zip(terms, values, strict=True)}
        scalars["train/learning_rate"] = learning_rate
        scalars["throughput/samples_per_second"] = steps * self.config.batch_size / seconds
        scalars["throughput/flops_per_second"] = steps * self.flops_per_step / seconds
        scalars["throughput/flops_per_step"] = self.flops_per_step
        if self.accelerator.device.type == "cuda":
            scalars["memory/peak_bytes"] = torch.cuda.max_memory_allocated(self.accelerator.device)
        self.scalars = scalars
        if self.writer:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, self.step)

    def _save_checkpoint(self) -> None:
        """Everything that the next step depends on, in one file that loads without unpickling code."""
        if not self.accelerator.is_main_process:
            return
        self.writer.flush()
        state = {
            "step": self.step,
            "autoencoder": self.cache.identity["autoencoder"],
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        with atomic_path(self.folder.checkpoint_path(self.step)) as temporary:
            torch.save(state, temporary)
        self.folder.remove_old_checkpoints(self.config.keep_checkpoints)

    def _load_checkpoint(self) -> int:
        """Load the newest checkpoint, if there is one; returns its step."""
        path, step = self.folder.newest_checkpoint()
        if path is None:
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["autoencoder"] != self.cache.identity["autoencoder"]:
            raise ValueError(
                f"{path} was trained on the latents of the autoencoder {state['autoencoder']}, not of "
                f"{self.cache.identity['autoencoder']}: give its folder with --autoencoder"
            )
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.accelerator.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        return step


def _forward_flops(model: VidTwinDiT) -> int:
    """Of one sample."""
    tokens = torch.empty(1, model.layout.num_tokens, model.layout.token_dim, device="meta")
    return count_flops(model, tokens, torch.empty(1, device="meta"), torch.empty(1, dtype=torch.long, device="meta"))
