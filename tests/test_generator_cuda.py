"""Steps and validation of stage two on fake CUDA: devices do not mix, and the host waits only to record."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from fakecuda import FakeCuda
from test_batches import make_cache, make_model

from autoencoder.common.run import RunFolder
from generator import batches as batches_module
from generator.config import FLOW_KINDS, ObjectiveConfig, TrainConfig
from generator.trainer import GeneratorTrainer

# Every number that is read counts as a wait. Whether all was finite is read in the same places, and in `check`, which
# is left out here: numbers of fake tensors are invented.
RECORDS = ("generator/trainer.py _log: values = ", "generator/trainer.py _validate: means = ")
CASES = [
    ("flow", False, "adamw"),
    ("flow", True, "muon"),
    ("flow_sample", True, "adamw"),
    ("sample", True, "adam"),
    ("epsilon", False, "adamw"),
    ("v_prediction", True, "adamw"),
]


class OnCuda:
    """What the trainer asks of accelerate, for one process on "cuda:0", with bf16 autocast."""

    device, is_main_process, is_fsdp2 = torch.device("cuda:0"), True, False
    num_processes, process_index, distributed_type = 1, 0, None

    def prepare(self, model, optimizer):
        return model, optimizer

    def autocast(self):
        return torch.autocast("cuda", torch.bfloat16)

    def backward(self, loss):
        torch.autograd.backward(loss)

    def clip_grad_norm_(self, parameters, max_norm):
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def no_sync(self, model):
        return nullcontext()

    def reduce(self, tensor, reduction):
        return tensor

    def print(self, *args):
        """Nobody reads it."""


class PinningLoader(torch.utils.data.DataLoader):
    """Pins as on a machine with a GPU; torch's own loader leaves that out without one."""

    def __init__(self, *args, pin_memory: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.pins = pin_memory

    def __iter__(self):
        return (batch.pin_memory() if self.pins else batch for batch in super().__iter__())


def make_trainer(folder: Path, objective: ObjectiveConfig, **options) -> GeneratorTrainer:
    """On fake CUDA, as accelerate would leave it there."""
    cache, held_out = make_cache(folder / "cache"), make_cache(folder / "held-out", 4, seed=1)
    config = TrainConfig(
        batch_size=4,
        micro_batch_size=2,
        max_steps=4,
        log_every=2,
        checkpoint_every=100,
        validate_every=4,
        second_ema_decay=0.9,
        compile=False,
        objective=objective,
    )
    config.optimizer.name, config.optimizer.newton_schulz_steps = options.pop("optimizer", "adamw"), 1
    positions = "rotary" if objective.kind == "flow" else "sincos"
    model = make_model(cache, objective, num_layers=1, positions=positions, qk_norm="rms_norm", **options).to("cuda:0")
    return GeneratorTrainer(model, cache, config, RunFolder(folder / "run"), OnCuda(), held_out)


@pytest.mark.parametrize("kind, independent, optimizer", CASES)
def test_steps_and_validation_wait_only_where_something_is_recorded(
    tmp_path, monkeypatch, kind, independent, optimizer
):
    monkeypatch.setattr(batches_module, "DataLoader", PinningLoader)
    gamma = None if kind in FLOW_KINDS else 5.0
    conditioning = "cross_attention" if kind == "sample" else "adaln_zero"
    with FakeCuda() as gpu:
        objective = ObjectiveConfig(kind, independent_times=independent, min_snr_gamma=gamma)
        trainer = make_trainer(tmp_path, objective, conditioning=conditioning, optimizer=optimizer)
        batches = trainer._micro_batches()
        gpu.waits.clear()
        for _ in range(2):
            terms, learning_rate = trainer._train_step(batches)
        assert all(parameter.grad.device.type == "cuda" for parameter in trainer.model.parameters())
        gpu.assert_waits_only()

        monkeypatch.setattr(trainer._guard, "check", lambda: None)
        trainer._window_start, trainer._window_step, trainer.step = 0.0, 0, 2
        trainer._log(terms, learning_rate)
        trainer._record(trainer._validate())
        gpu.assert_waits_only(*RECORDS)
        assert all(gpu.count(place) for place in RECORDS)
        assert {"train/loss", "val/loss", "memory/peak_bytes"} < trainer.scalars.keys()


def test_times_of_frames_wait_for_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(batches_module, "DataLoader", PinningLoader)
    with FakeCuda() as gpu:
        objective = ObjectiveConfig(independent_times=True, history_share=0.5, frame_share=0.3)
        trainer = make_trainer(tmp_path, objective)
        batches = trainer._micro_batches()
        gpu.waits.clear()
        for _ in range(2):
            trainer._train_step(batches)
        gpu.assert_waits_only()


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_a_batch_that_is_not_pinned_is_seen(tmp_path):
    """The test above would fail if the copies blocked."""
    with FakeCuda() as gpu:
        trainer = make_trainer(tmp_path, ObjectiveConfig())
        gpu.waits.clear()
        trainer._train_step(trainer._micro_batches())
        with pytest.raises(AssertionError, match="not pinned: generator/objective.py"):
            gpu.assert_waits_only()
