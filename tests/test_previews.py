"""Pictures made while training: refused at the start, or a warning; never the end of a training."""

from pathlib import Path

import pytest
import test_autoencoder_train
import test_generator_train
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_latent_cache import make_autoencoder
from torch.utils.tensorboard import SummaryWriter

from autoencoder import train as first_stage
from autoencoder.common import records
from autoencoder.common.errors import UserError
from autoencoder.common.pictures import Previews, add_moving_picture, printable
from autoencoder.common.run import LAST_AUTOENCODER, RunFolder, write_pointer
from autoencoder.common.signals import Stopped
from autoencoder.training import fit as first_fit
from generator import train as second_stage
from pipelines import VidTwinDiffusionPipeline


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_autoencoder().save_pretrained("autoencoder")
    write_pointer(LAST_AUTOENCODER, "autoencoder")
    return tmp_path


@pytest.mark.parametrize(
    "setting, value, kind",
    [
        ("sample_steps", 1001, "sample"),
        ("sample_guidance_interval", "[0.5,0.5]", "flow"),
    ],
)
def test_what_can_be_known_is_refused_before_anything_is_written(workplace, setting, value, kind):
    flags = test_generator_train.arguments(workplace / "run", **{setting: value, "objective.kind": kind})
    with pytest.raises(UserError, match=f"{setting}=.* gives no previews"):
        second_stage.main(flags)
    assert not (workplace / "run").exists()


@pytest.mark.parametrize("steps", [1, 7, 28, 60, 61, 999, 1000])
def test_every_count_of_steps_that_works_is_taken(workplace, steps):
    second_stage.parse(test_generator_train.arguments(workplace / "run", sample_steps=steps))


def test_a_failing_preview_of_stage_two_is_a_warning(workplace, monkeypatch, capsys):
    saved = []

    def fail(*_, **__):
        saved.append(RunFolder(workplace / "run").newest_checkpoint()[1])
        raise RuntimeError("no\nvideo")

    monkeypatch.setattr(VidTwinDiffusionPipeline, "__call__", fail)
    flags = test_generator_train.arguments(workplace / "run", max_steps=3, checkpoint_every=1, sample_every=1)
    second_stage.main([*flags, "--max-videos=20", "--val-videos=20"])
    assert saved == [1, 2, 3], "a step is saved before its preview"
    lines = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert lines == ["warning: no sampled videos at step 1, the training goes on: RuntimeError: no"]
    assert (workplace / "run" / "pipeline").is_dir()


def test_a_failing_picture_of_stage_one_is_a_warning(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ValueError("no picture")

    monkeypatch.setattr(records, "add_moving_picture", fail)
    config, model, folder, _ = first_stage.parse(
        test_autoencoder_train.arguments(tmp_path / "run", max_steps=2, validate_every=1)
    )
    first_fit.train(config, model, folder)
    assert folder.newest_checkpoint()[1] == 2 and (folder.model / "config.json").is_file()
    assert capsys.readouterr().out.count("warning: no moving picture of held-out clips at step 1") == 1


def test_every_kind_of_failure_is_said_once(capsys):
    previews = Previews()
    for step, error in enumerate((ValueError("a"), ValueError("b"), OSError(28, "No space left on device"))):
        with previews.attempted("picture", step):
            raise error
    with pytest.raises(Stopped), previews.attempted("picture", 3):
        raise Stopped(15)
    out = capsys.readouterr().out
    assert out.count("\n") == 2 and "ValueError: a" in out and "No space left" in out


NAMES = {
    "Walking": "Walking",
    "Gehen auf Füßen / 歩く": "Gehen auf Füßen / 歩く",
    b"caf\xe9".decode("utf-8", "surrogateescape"): "caf\\udce9",
    "two\nlines\x00": "two\\nlines\\x00",
}


@pytest.mark.parametrize("name, shown", NAMES.items())
def test_names_that_are_no_utf8_are_escaped(tmp_path, name, shown):
    assert printable(name) == shown
    writer = SummaryWriter(str(tmp_path))
    add_moving_picture(writer, f"sample: {name}", torch.zeros(2, 8, 8, 3, dtype=torch.uint8), 1, 8.0)
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == [f"sample: {shown}"]
