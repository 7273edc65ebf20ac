"""A signal ends a training of either stage after a whole step, which is saved, and the run goes on to the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import test_autoencoder_train
import test_generator_train
import torch
from lightning.pytorch import Callback

from autoencoder import train as first_stage
from autoencoder.common.run import RunFolder
from autoencoder.common.signals import Stopped
from autoencoder.training import fit as fit_first
from generator import fit as fit_second
from generator import latent_cache
from generator import train as second_stage
from generator.trainer import GeneratorTrainer

workplace = test_generator_train.workplace

SHORT = {"max_steps": 6, "checkpoint_every": 100, "validate_every": 5}


class Ring(Callback):
    """Raises a signal in stage one."""

    def __init__(self, signum: int, step: int, in_validation: bool = False):
        self.signum, self.step, self.in_validation = signum, step, in_validation

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.global_step + 1 == self.step and not self.in_validation:
            signal.raise_signal(self.signum)

    def on_validation_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step and self.in_validation:
            signal.raise_signal(self.signum)


def run_first(folder: Path, *flags: str, callbacks=()) -> None:
    config, model, run, text = first_stage.parse([*test_autoencoder_train.arguments(folder, **SHORT), *flags])
    run.path.mkdir(exist_ok=True)
    run.config.write_text(text)
    fit_first.train(config, model, run, callbacks)


def run_second(folder: Path, *flags: str, callbacks=()) -> None:
    arguments = test_generator_train.arguments(folder, **SHORT, sample_every=4)
    config, model, run, text = second_stage.parse([*arguments, *flags])
    run.path.mkdir(exist_ok=True)
    run.config.write_text(text)
    fit_second.train(config, model, run, callbacks, progress=False)


def end_of(folder: Path) -> dict:
    return torch.load(RunFolder(folder).checkpoint_path(SHORT["max_steps"]), weights_only=True)


@pytest.fixture(scope="module")
def first_unbroken(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("first") / "run"
    run_first(folder)
    return end_of(folder)


@pytest.mark.parametrize(
    "signum, step, in_validation", [(signal.SIGTERM, 3, False), (signal.SIGINT, 5, True), (signal.SIGUSR1, 6, False)]
)
def test_stage_one(first_unbroken, tmp_path, capsys, signum, step, in_validation):
    folder = tmp_path / "a run"
    before = signal.getsignal(signum)
    with pytest.raises(SystemExit) as stopped:
        run_first(folder, callbacks=[Ring(signum, step, in_validation)])
    assert stopped.value.code == 128 + signum and signal.getsignal(signum) == before
    assert RunFolder(folder).newest_checkpoint()[1] == step and not (folder / "model").exists()
    assert (
        f"stopped by {signum.name} after step {step}, which is saved; go on with: "
        f"python -m autoencoder.train --resume --output-dir '{folder}'\n"
    ) in capsys.readouterr().out

    run_first(folder, "--resume")
    actual = end_of(folder)
    torch.testing.assert_close(actual["state_dict"], first_unbroken["state_dict"], rtol=0, atol=0)
    states = [end["optimizer_states"][0]["state"] for end in (actual, first_unbroken)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert (folder / "model").exists()


def test_stage_one_in_the_export_leaves_no_model(tmp_path, monkeypatch, capsys):
    def export(*_, **__) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(fit_first.AutoencoderVidTwin, "save_pretrained", export)
    with pytest.raises(Stopped):
        run_first(tmp_path / "run")
    assert not list((tmp_path / "run").glob("*model*")) and "after step 6, which is saved" in capsys.readouterr().out


@pytest.fixture(scope="module")
def second_unbroken(workplace) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        run_second(workplace / "unbroken")
    return end_of(workplace / "unbroken")


def ring_in(method: str, signum: int, step: int, monkeypatch) -> None:
    """Raise a signal in a method of stage two's trainer, once."""
    whole = getattr(GeneratorTrainer, method)

    def ringing(trainer, *args):
        if trainer.step == step:
            signal.raise_signal(signum)
        return whole(trainer, *args)

    monkeypatch.setattr(GeneratorTrainer, method, ringing)


@pytest.mark.parametrize(
    "method, signum, step, saved",
    [
        ("_train_step", signal.SIGTERM, 2, 3),
        ("_validate", signal.SIGINT, 5, 5),
        ("averaged_model", signal.SIGHUP, 4, 4),  # of a preview
    ],
)
def test_stage_two(workplace, second_unbroken, tmp_path, monkeypatch, capsys, method, signum, step, saved):
    monkeypatch.chdir(workplace)
    folder = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        ring_in(method, signum, step, patch)
        run_second(folder)
    assert stopped.value.code == 128 + signum
    assert RunFolder(folder).newest_checkpoint()[1] == saved and not (folder / "pipeline").exists()
    assert (
        f"stopped by {signum.name} after step {saved}, which is saved; go on with: "
        f"python -m generator.train --resume --output-dir {folder}\n"
    ) in capsys.readouterr().out
    run_second(folder, "--resume")
    actual = end_of(folder)
    for name in ("model", "schedule", "averages"):
        torch.testing.assert_close(actual[name], second_unbroken[name], rtol=0, atol=0)
    assert (folder / "pipeline").exists()


def test_stage_two_while_it_encodes(workplace, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    write = latent_cache.write_shard

    def ringing(folder, number, *args):
        write(folder, number, *args)
        if number == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(latent_cache, "write_shard", ringing)
    with pytest.raises(SystemExit) as stopped:
        run_second(tmp_path / "run", f"--latent-cache={tmp_path / 'latents'}")
    assert stopped.value.code == 143
    assert "stopped by SIGTERM before the first step was saved; go on with: python -m" in capsys.readouterr().out
    shards = {path.name for path in (tmp_path / "latents").glob("*shard*")}
    assert shards == {"shard-00000.safetensors", "shard-00001.safetensors"}


@pytest.mark.parametrize("stage", ["autoencoder", "generator"])
def test_a_signal_to_the_whole_group_of_a_real_run(workplace, tmp_path, stage):
    """Its workers get it as well, as under a cluster or from Ctrl-C."""
    tests = test_autoencoder_train if stage == "autoencoder" else test_generator_train
    flags = tests.arguments(tmp_path / "run", max_steps=100_000, num_workers=2, checkpoint_every=2)
    process = subprocess.Popen(
        [sys.executable, "-m", f"{stage}.train", *flags],
        cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    while not RunFolder(tmp_path / "run").newest_checkpoint()[1]:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 143, output
    assert "Traceback" not in output and "error:" not in output and "Error" not in output
    assert f"go on with: python -m {stage}.train --resume --output-dir {tmp_path / 'run'}\n" in output
    assert not list((tmp_path / "run").glob("*model*")) and not list((tmp_path / "run").glob("*pipeline*"))
