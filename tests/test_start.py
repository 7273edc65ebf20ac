"""Starting a training from the weights of another one."""

import math

import pytest
import torch
from tiny_models import tiny_pipeline, tiny_vae

from autoencoder.checkpoint import load_autoencoder
from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.common.plots import read_scalars
from autoencoder.common.run_folder import RunFolder
from autoencoder.data import Shapes, to_video
from autoencoder.train import main
from autoencoder.training.start import OVER_FRAMES, SETTINGS, start_from
from autoencoder.vidtwin import AutoencoderVidTwin
from pipelines.folders import model_folder
from pipelines.stages import read_presets


def test_weights_of_shorter_clips_start_a_model(tmp_path):
    short, long = tiny_vae(num_frames=4, sample_size=32), tiny_vae(num_frames=7, sample_size=32)
    for parameter in short.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    short.save_pretrained(tmp_path)
    start_from(long, tmp_path)
    given, taken = short.state_dict(), long.state_dict()
    over_frames = {name for name in taken if name.startswith(OVER_FRAMES)}
    assert over_frames
    for name in taken.keys() - over_frames:
        assert torch.equal(taken[name], given[name]), name
    for name in over_frames:
        torch.testing.assert_close(taken[name][::2], given[name])
        torch.testing.assert_close(taken[name][1::2], (given[name][1:] + given[name][:-1]) / 2)
    again = tiny_vae(num_frames=4, sample_size=32)
    start_from(again, tmp_path)
    video = to_video(Shapes(4, 32).clip(0)[None])
    assert torch.equal(again.eval()(video).sample, short.eval()(video).sample)


@pytest.mark.parametrize("squared_error_steps, micro_batch_size", [(0, 2), (0, 1), (1, 2)])
def test_a_trained_model_begins_with_the_scale_of_its_errors(tmp_path, squared_error_steps, micro_batch_size):
    AutoencoderVidTwin(**read_presets("autoencoder", "tiny")[1]).save_pretrained(tmp_path / "given")
    run = RunFolder(tmp_path / "run")
    flags = {"init-from": tmp_path / "given", "output-dir": run.path, "max-steps": 1, "log-every": 1, "lpips-weight": 0}
    flags |= {"batch-size": 2, "micro-batch-size": micro_batch_size, "squared-error-steps": squared_error_steps}
    flags |= {"num-held-out": 2, "accelerator": "cpu", "devices": 1, "optimizer.learning-rate": 1e-12}
    main([f"--{name}={value}" for name, value in flags.items()])
    state = torch.load(run.checkpoint_path(1), weights_only=True)["state_dict"]
    tags = "train/logvar", "train/l1", "train/nll"
    logged = {tag: points[0].value for tag, points in read_scalars(run.path, *tags).items()}
    scale = state["loss.logvar"].item()
    assert scale < -0.1 and logged["train/logvar"] == pytest.approx(scale, abs=1e-6), "settled once in the step"
    if micro_batch_size == 2:  # the error over its scale is 1
        assert logged["train/nll"] == pytest.approx(3 * 32 * 32 * (1 + scale), rel=1e-5)
        assert (scale == pytest.approx(math.log(logged["train/l1"]), abs=1e-5)) != bool(squared_error_steps)


def test_what_does_not_fit_is_listed(tmp_path):
    tiny_vae(sample_size=32).save_pretrained(tmp_path)
    model = tiny_vae(sample_size=16)
    model.decoder.proj_out = torch.nn.Linear(8, 4)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(
        UserError,
        match=r"does not fit this run: model.sample_size=32 there; .* for \(.*Give --model.sample-size 32, or let",
    ):
        start_from(model, tmp_path)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    with pytest.raises(MissingFileError, match="no folder of an autoencoder"):
        start_from(model, tmp_path / "nothing")


def test_what_does_not_fit_begins_anew_where_that_is_asked_for(tmp_path, capsys):
    small, large = tiny_vae(sample_size=16), tiny_vae(sample_size=32)
    small.save_pretrained(tmp_path)
    before, known = ({name: weight.clone() for name, weight in each.state_dict().items()} for each in (large, small))
    start_from(large, tmp_path, init_missing=True)
    assert "begins anew where that does not fit: model.sample_size=16 there; " in capsys.readouterr().out
    anew = {name for name in known if known[name].shape != before[name].shape}
    assert anew and len(anew) < len(known) / 2
    for name, weight in large.state_dict().items():
        assert torch.equal(weight, (before if name in anew else known)[name]), name


@pytest.mark.parametrize("source", ["shapes", "pipeline"])
def test_a_run_starts_from_the_autoencoder_of_a_pipeline(tmp_path, monkeypatch, source):
    """By its name or its folder, and with its settings, which no flag repeats."""
    monkeypatch.chdir(tmp_path)
    tiny_pipeline(sample_size=32).save_pretrained("pipeline")
    flags = {"init-from": source, "output-dir": "run", "max-steps": 1, "batch-size": 2, "num-held-out": 2}
    flags |= {"accelerator": "cpu", "devices": 1, "optimizer.learning-rate": 1e-12, "lpips-weight": 0}
    main([f"--{name}={value}" for name, value in flags.items()])
    given, made = (load_autoencoder(folder, "cpu") for folder in (model_folder(source, "vae"), "run/model"))
    assert {name: made.config[name] for name in SETTINGS} == {name: given.config[name] for name in SETTINGS}
    for name, weight in given.state_dict().items():
        torch.testing.assert_close(made.state_dict()[name], weight, rtol=0, atol=1e-6)


def test_a_run_starts_from_another_and_resumes_without_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = ["--batch-size", "2", "--num-held-out", "2", "--checkpoint-every", "1"]
    options = [*sizes, "--devices", "1", "--accelerator", "cpu"]
    main([*options, "--max-steps", "3", "--output-dir", "first"])
    start = tmp_path / "first"
    frozen = [*options, "--optimizer.learning_rate", "1e-12", "--init-from", str(start), "--output-dir", "second"]
    main([*frozen, "--max-steps", "1"])
    first, second = (load_autoencoder(f"{name}/model", "cpu").state_dict() for name in ("first", "second"))
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    start.rename(tmp_path / "elsewhere")
    main([*frozen, "--max-steps", "2", "--resume"])


@pytest.mark.parametrize("preset", ["shapes_short", "shapes_quick"])
def test_the_preset_of_long_clips_starts_from_those_of_short_ones(tmp_path, preset):
    short, long = (AutoencoderVidTwin(**read_presets("autoencoder", name)[1]) for name in (preset, "shapes_long"))
    short.save_pretrained(tmp_path)
    assert short.config.num_frames < long.config.num_frames
    start_from(long, tmp_path)
