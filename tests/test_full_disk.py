"""A full disk ends a training in one line with the file; the last good checkpoint is whole, nothing is left over."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import test_autoencoder_train
import test_generator_train
import torch
from lightning.pytorch import Callback
from test_latent_cache import make_autoencoder

from autoencoder import AutoencoderVidTwin
from autoencoder import train as first_stage
from autoencoder.common.checkpoints import newest_whole_checkpoint
from autoencoder.common.files import WriteError
from autoencoder.common.run import LAST_AUTOENCODER, RunFolder, read_pointer, write_pointer
from autoencoder.training import fit as first_fit
from generator import fit as second_fit
from generator import train as second_stage
from generator.trainer import GeneratorTrainer
from pipelines import VidTwinDiffusionPipeline

LIMITS = resource.getrlimit(resource.RLIMIT_FSIZE)
EVERY = {"max_steps": 4, "checkpoint_every": 2, "validate_every": 9, "log_every": 1}


def fill_the_disk(*_) -> None:
    """No file of this process can grow from now on."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, LIMITS[1]))


@contextmanager
def full_disk_in(folder: Path, name: str) -> Iterator[None]:
    """What the block must raise, and leave behind."""
    try:
        with pytest.raises(WriteError) as error:
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, LIMITS)
    message = str(error.value)
    assert (
        message.startswith(str(folder)) and name in message and message.endswith("could not be written: File too large")
    )
    assert not [path for path in folder.rglob("*") if ".tmp" in path.name]


class FillTheDisk(Callback):
    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.global_step == 3:
            fill_the_disk()


def test_in_a_training_of_stage_one(tmp_path):
    config, model, folder, _ = first_stage.parse(test_autoencoder_train.arguments(tmp_path / "run", **EVERY))
    with full_disk_in(folder.path, ""):
        first_fit.train(config, model, folder, [FillTheDisk()])
    assert newest_whole_checkpoint(folder.checkpoints) == (folder.checkpoint_path(2), 2)


def test_in_the_export_of_stage_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save = AutoencoderVidTwin.save_pretrained
    monkeypatch.setattr(AutoencoderVidTwin, "save_pretrained", lambda *args: [fill_the_disk(), save(*args)])
    with full_disk_in(tmp_path / "run", "model"):
        first_stage.main(test_autoencoder_train.arguments(tmp_path / "run", **EVERY))
    assert newest_whole_checkpoint(tmp_path / "run/checkpoints")[1] == 4 and not (tmp_path / "run/model").exists()
    assert read_pointer(LAST_AUTOENCODER) is None


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_autoencoder().save_pretrained("autoencoder")
    write_pointer(LAST_AUTOENCODER, "autoencoder")
    return tmp_path


def second(workplace: Path, **more) -> tuple:
    few = {"max_videos": 20, "val_videos": 20, "latent_cache": workplace / "latents"}
    return second_stage.parse(test_generator_train.arguments(workplace / "run", **EVERY | few | more))[:3]


def test_in_a_training_of_stage_two(workplace):
    def fill(trainer: GeneratorTrainer) -> None:
        if trainer.step == 3:
            fill_the_disk()

    config, model, folder = second(workplace)
    with full_disk_in(folder.path, ""):
        second_fit.train(config, model, folder, [fill], progress=False)
    assert newest_whole_checkpoint(folder.checkpoints) == (folder.checkpoint_path(2), 2)


def test_while_the_latents_are_encoded(workplace):
    config, model, folder = second(workplace)
    fill_the_disk()
    with full_disk_in(workplace / "latents", "shard-00000.safetensors"):
        second_fit.train(config, model, folder, progress=False)


def test_in_the_export_of_stage_two(workplace, monkeypatch):
    save = VidTwinDiffusionPipeline.save_pretrained
    monkeypatch.setattr(VidTwinDiffusionPipeline, "save_pretrained", lambda *args: [fill_the_disk(), save(*args)])
    config, model, folder = second(workplace)
    with full_disk_in(folder.path, "pipeline"):
        second_fit.train(config, model, folder, progress=False)
    assert newest_whole_checkpoint(folder.checkpoints)[1] == 4 and not folder.pipeline.exists()


@pytest.mark.parametrize("step", [2, 4])
def test_a_failing_writer_of_torch(workplace, monkeypatch, step):
    """Its message does not say why; the system does."""
    save = torch.save

    def fail(state, path, *args):
        save(state, path, *args)
        if state["step"] == step:
            fill_the_disk()
            raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    monkeypatch.setattr(torch, "save", fail)
    config, model, folder = second(workplace)
    with full_disk_in(folder.path, f"step-{step:08d}"):
        second_fit.train(config, model, folder, progress=False)
    assert newest_whole_checkpoint(RunFolder(folder.path).checkpoints)[1] == step - 2
