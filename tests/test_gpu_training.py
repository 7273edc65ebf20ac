"""Training on a GPU, by the commands themselves: bf16, the GAN, records, resuming; and that no step waits for the GPU.

What costs little runs on the CPU, too, so that it is known to run at all.
"""

import math
from pathlib import Path

import pytest
import test_autoencoder_cuda
import test_generator_cuda
import test_gpu
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_autoencoder_train import MODEL
from test_gpu import on_cuda, on_every_device
from test_latent_cache import make_autoencoder
from tiny_models import tiny_pipeline

from autoencoder import train as first_stage
from autoencoder.common.config import OptimizerConfig
from autoencoder.training.config import ExchangeConfig
from generator import train as second_stage
from generator.config import ObjectiveConfig
from pipelines.schedulers import convert_scheduler

exact_products = test_gpu.exact_products

RUN = {"batch_size": 4, "micro_batch_size": 2, "checkpoint_every": 2, "log_every": 1, "compile": "false"}
RUN |= {"optimizer.schedule": "constant"}
FIRST = {f"model.{name}": value for name, value in MODEL.items()}
FIRST |= {"num_held_out": 2, "ema_decay": 0.9, "latent_noise": 0.1, "exchange.share": 0.5}
FIRST |= {"gan": "true", "gan_start": 1, "discriminator_optimizer.schedule": "constant"}
SECOND = {f"model.{name}": 16 if name == "hidden_size" else 2 for name in ("hidden_size", "num_attention_heads")}
SECOND |= {"model.num_layers": 1, "model.structure_patch_size": "[2,1,1]", "max_videos": 20, "val_videos": 4}
SECOND |= {"autoencoder": "autoencoder", "sample_every": 100, "second_ema_decay": 0.5}


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A folder in which there is an autoencoder."""
    monkeypatch.chdir(tmp_path)
    make_autoencoder().save_pretrained("autoencoder")
    return tmp_path


def train(stage: str, folder: str, steps: int, precision: str, *more: str) -> tuple[dict, dict[str, list[float]]]:
    """Run a stage's command; returns the weights that it leaves, of all it averages too, and its records by tag."""
    command, settings = (first_stage, FIRST) if stage == "first" else (second_stage, SECOND)
    settings = RUN | settings | {"output_dir": folder, "max_steps": steps, "precision": precision}
    command.main([*(f"--{name}={value}" for name, value in settings.items()), *more])
    weights = {}
    for path in sorted(Path(folder).glob("*/**/*.safetensors")):
        weights |= {f"{path.parent.relative_to(folder)} {name}": tensor for name, tensor in load_file(path).items()}
    events = EventAccumulator(str(Path(folder) / "tensorboard"))
    events.Reload()
    return weights, {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@on_every_device
@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_run_uses_its_device_and_says_so(device, stage, workplace, capsys):
    precision = "auto" if device == "cuda" else "fp32"  # the CPU of a test may multiply bf16, too
    _, records = train(stage, "run", 3, precision)
    printed = capsys.readouterr().out
    assert (f"1 x {device}" in printed) and ("precision: bf16 (this GPU has" in printed) == (device == "cuda")
    assert len(records["train/loss"]) == 3 and all(map(math.isfinite, records["train/loss"]))
    if stage == "first":
        assert len(records["train/gan"]) == 2 and len(records["train/discriminator_gradient_norm"]) == 2
    assert ("memory/peak_bytes" in records) == (device == "cuda")
    if device == "cuda":
        assert min(records["memory/peak_bytes"]) > 2**20


@on_cuda
@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_resumed_run_ends_as_an_unbroken_one(stage, workplace):
    expected, of_all = train(stage, "whole", 4, "fp32")
    train(stage, "parts", 2, "fp32")
    found, of_parts = train(stage, "parts", 4, "fp32", "--resume")
    assert of_parts["train/loss"] == of_all["train/loss"]
    # Not to the bit: convolutions add up in any order on a GPU.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


@on_every_device
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_optimiser_steps_as_on_the_cpu(device, name):
    ends = []
    for place in ("cpu", device):
        model = tiny_pipeline().transformer.to(place)
        optimizer, schedule = OptimizerConfig(name=name, learning_rate=0.01, warmup_steps=2).build(model, 10, "fp32")
        draw = torch.Generator().manual_seed(0)
        for _ in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=draw).to(place)
            optimizer.step()
            schedule.step()
        ends.append({key: tensor.cpu() for key, tensor in model.state_dict().items()})
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-3, atol=5e-5)


@pytest.fixture
def no_waiting():
    """A function after whose call what makes the host wait for the GPU raises, until it is called with "default"."""
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


@on_cuda
@pytest.mark.parametrize("optimizer, share", [("adam", 0.5), ("muon", 0.0)])
def test_no_step_of_stage_one_waits(optimizer, share, no_waiting):
    """What `test_autoencoder_cuda` sees on fake CUDA."""
    module = test_autoencoder_cuda.make_module(optimizer, exchange=ExchangeConfig(share))
    module.config.optimizer.learning_rate = 1e-6
    test_autoencoder_cuda.start_on_gpu(module)
    for step in range(3):  # the first one logs
        no_waiting("error" if step == 2 else "default")
        test_autoencoder_cuda.take_step(module)
    no_waiting("default")
    module.guard.check()  # the loss and the gradients were finite


@on_cuda
@pytest.mark.parametrize("kind, independent, optimizer", [("flow", True, "muon"), ("v_prediction", False, "adamw")])
def test_no_step_of_stage_two_waits(kind, independent, optimizer, tmp_path, no_waiting):
    """What `test_generator_cuda` sees on fake CUDA."""
    objective = ObjectiveConfig(kind, independent_times=independent)
    trainer = test_generator_cuda.make_trainer(tmp_path, objective, optimizer=optimizer)
    batches = trainer._micro_batches()
    trainer._train_step(batches)
    no_waiting("error")
    terms, _ = trainer._train_step(batches)
    no_waiting("default")
    assert all(term.is_cuda and term.isfinite() for term in terms.values())


@on_cuda
@pytest.mark.parametrize("kind, scheduler", [("flow", None), ("flow", "UniPCMultistepScheduler"), ("sample", None)])
def test_no_step_of_sampling_waits(kind, scheduler, no_waiting):
    pipe = tiny_pipeline(kind)
    if scheduler is not None:
        pipe.scheduler = convert_scheduler(scheduler, pipe.scheduler.config, pipe.transformer.config.prediction_type)

    def from_step_to_step(pipe, index: int, timestep, state: dict) -> dict:
        no_waiting("error" if index < 3 else "default")
        return state

    frames = pipe.to("cuda")([0, 1], 4, 3.0, generator=0, callback_on_step_end=from_step_to_step).frames
    assert frames.shape == (2, 4, 16, 16, 3)
