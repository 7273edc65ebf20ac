"""The records of a run by every logger, in both stages: what is there, how it goes on, and what is refused."""

import csv
import importlib.metadata
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_models import tiny_vae

from autoencoder import train as first_stage
from autoencoder.common.config import RunConfig
from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.common.plots import read_scalars
from autoencoder.common.records import Records, describe_loggers, open_loggers
from autoencoder.common.run_folder import RunFolder
from generator import train as second_stage
from pipelines import VidTwinDiffusionPipeline
from pipelines.shipping import records_of

FIRST = ["--batch-size=2", "--num-held-out=2", "--devices=1", "--accelerator=cpu", "--lpips-weight=0", "--log-every=1"]
SECOND = ["--dataset=shapes", "--autoencoder=vae", "--max-videos=4", "--batch-size=2", "--sample-steps=1"]
SECOND += ["--precision=fp32", "--log-every=1", "--sample-classes=1", "--optimizer.name=adamw"]
SECOND += ["--model.hidden-size=16", "--model.num-layers=1", "--model.num-attention-heads=2"]


def lines_of(run: RunFolder) -> list[dict[str, float]]:
    with open(run.csv, newline="") as file:
        return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]


def wandb_parts(run: RunFolder) -> list[Path]:
    """What each start of a run kept at Weights & Biases, in their order."""
    parts = sorted(run.wandb_id.parent.glob("offline-run-*"))
    assert all(run.wandb_id.read_text() in part.name for part in parts), "one run"  # numbered within a second
    return parts


def assert_complete(run: RunFolder, tag: str, steps: list[int], picture: str) -> None:
    """TensorBoard and the CSV file hold the same; Weights & Biases holds each start's records and its videos."""
    logged = [(point.step, point.value) for point in read_scalars(run.path, tag)[tag]]
    assert [step for step, _ in logged] == steps
    rows = [(row["step"], row[tag]) for row in lines_of(run) if tag in row]
    assert [step for step, _ in rows] == steps
    assert [value for _, value in rows] == pytest.approx([value for _, value in logged], rel=1e-6)
    for part in wandb_parts(run):
        (file,) = part.glob("*.wandb")
        content = file.read_bytes()
        assert all(text.encode() in content for text in (tag, "max_steps", "torch 2."))
        pictures = list((part / "files/media/videos").glob(f"{picture}*.gif"))
        assert pictures and all(Image.open(path).format == "GIF" for path in pictures)


def test_stage_one_records_everywhere_and_goes_on_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = [*FIRST, "--output-dir=run", "--logger=tensorboard,wandb,csv", "--checkpoint-every=1"]
    first_stage.main([*flags, "--max-steps=2", "--validate-every=1"])
    out, run = capsys.readouterr().out, RunFolder("run")
    assert f"tensorboard --logdir {run.tensorboard}, and at Weights & Biases" in out and str(run.csv) in out
    run.checkpoint_path(2).unlink()
    first_stage.main(["--output-dir=run", "--resume", "--max-steps=3"])
    assert len(wandb_parts(run)) == 2
    assert_complete(run, "train/l1", [1, 2, 3], "clip 0: original")
    assert_complete(run, "val/psnr", [1, 2, 3], "clip 0: original")


def test_stage_two_records_everywhere_and_goes_on_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_vae(num_frames=8, sample_size=32).save_pretrained("vae")
    flags = [*SECOND, "--output-dir=run", "--logger=csv,wandb,tensorboard", "--checkpoint-every=1"]
    second_stage.main([*flags, "--max-steps=2"])
    run = RunFolder("run")
    run.checkpoint_path(2).unlink()
    second_stage.main(["--output-dir=run", "--resume", "--max-steps=3"])
    assert len(wandb_parts(run)) == 2
    assert_complete(run, "train/loss", [1, 2, 3], "sample: circle_horizontal")


def test_a_csv_file_alone_takes_no_videos_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_vae(num_frames=8, sample_size=32).save_pretrained("vae")
    sampled = []
    monkeypatch.setattr(VidTwinDiffusionPipeline, "__call__", lambda *_, **__: sampled.append(1))
    second_stage.main([*SECOND, "--output-dir=run", "--logger=csv", "--max-steps=2"])
    run = RunFolder("run")
    assert not sampled and f"the curves are in {run.csv}, without videos" in capsys.readouterr().out
    assert not run.tensorboard.exists() and [row["step"] for row in lines_of(run)] == [1, 2]

    with pytest.raises(MissingFileError, match="run holds no TensorBoard records: .*without --logger tensorboard"):
        read_scalars(run.path, "train/loss")
    assert records_of(run) == (0.0, [])
    assert "warning: run holds no TensorBoard records" in capsys.readouterr().out


def test_lines_that_were_put_aside_are_taken_up_again(tmp_path):
    """A process that died while it wrote the earlier lines anew has lost none, but for a line that was cut before."""
    run = RunFolder(tmp_path / "run")
    records = Records(open_loggers(["csv"], run, 0))
    for step in (1, 2, 3):
        records.scalars({"train/loss": 1 / step}, step)
    records.scalars({"val/loss": 0.5}, 3)
    whole = lines_of(run)
    with open(run.csv, "a") as file:
        file.write("4,0.")
    run.csv.replace(run.path / ".metrics.csv")
    run.csv.write_text("step\n1\n")
    records = Records(open_loggers(["csv"], run, 3))
    records.scalars({"train/loss": 0.25}, 4)
    assert lines_of(run) == [*whole, {"step": 4, "train/loss": 0.25}]
    assert [path.name for path in run.path.iterdir()] == ["csv"]


def test_a_video_goes_to_every_logger_that_takes_any(tmp_path):
    run, frames = RunFolder(tmp_path / "run"), torch.zeros(3, 8, 8, 3, dtype=torch.uint8)
    records = Records(open_loggers(["wandb", "csv"], run, 0))
    assert records.shows_pictures and not Records(open_loggers(["csv"], run, 0)).shows_pictures
    records.moving_picture("sample: \x00", frames + torch.arange(3)[:, None, None, None].byte() * 80, 1, 8.0)
    records.close()
    (part,) = wandb_parts(run)
    (path,) = (part / "files/media/videos").glob("sample: *.gif")
    assert Image.open(path).n_frames == 3


@pytest.mark.parametrize("names, shown", [(["mlflow"], "mlflow"), ([], "none"), (["csv", "csv"], "csv, csv")])
def test_loggers_are_checked(names, shown):
    with pytest.raises(UserError, match=f"one or several of tensorboard, wandb, csv, got {shown}"):
        RunConfig(logger=names)


def test_a_missing_package_says_how_to_install_it(tmp_path, monkeypatch):
    """Also where a folder has the package's name, as that of the records has."""
    monkeypatch.chdir(tmp_path)
    Path("wandb").mkdir()
    find = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name == "wandb":
            raise importlib.metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    with pytest.raises(UserError, match=r'pip install "vidtwin\[wandb\]"'):
        first_stage.parse([*FIRST, "--logger=wandb"])
    assert RunConfig(logger=["csv", "tensorboard"]).logger == ["csv", "tensorboard"]


def test_a_run_without_a_login_says_what_to_do(tmp_path, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login`")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match="logger=wandb: No API key configured: log in by `wandb login`, or .*offline"):
        first_stage.main([*FIRST, f"--output-dir={tmp_path / 'run'}", "--logger=tensorboard,wandb"])
    assert not (tmp_path / "run").exists(), "nothing had begun"


@pytest.mark.parametrize("content", [b"garbage\n1,2\n", b"\xff\xfe\n1\n", b"step,x\nabc,1\n", b"step,x\n1,2,3\n"])
def test_a_csv_file_that_is_none_of_a_run_stays_and_is_named(tmp_path, content):
    run = RunFolder(tmp_path)
    run.csv.parent.mkdir()
    run.csv.write_bytes(content)
    for _ in range(2):
        with pytest.raises(UserError, match=r"csv/metrics.csv is not what --logger csv writes, .*: move it away"):
            open_loggers(["csv"], run, 3)
        assert run.csv.read_bytes() == content
    run.csv.rename(tmp_path / "elsewhere")
    open_loggers(["csv"], run, 3)


def test_an_id_of_weights_and_biases_that_was_touched(tmp_path):
    run = RunFolder(tmp_path)
    run.wandb_id.parent.mkdir()
    run.wandb_id.write_text("known\n")
    Records(open_loggers(["wandb"], run, 0)).close()
    assert next(run.wandb_id.parent.glob("offline-run-*")).name.endswith("-known")
    run.wandb_id.write_text("")
    Records(open_loggers(["wandb"], run, 0)).close()
    assert len(run.wandb_id.read_text()) == 32


@pytest.mark.parametrize(
    "variable, value, message",
    [
        ("WANDB_PROJECT", "a/b", "logger=wandb: Invalid project name 'a/b': .*found '/'$"),
        ("WANDB_MODE", "nowhere", "logger=wandb: a WANDB_ variable is not .*: mode: Input .* 'offline', .*'nowhere'"),
    ],
)
def test_a_variable_of_weights_and_biases_that_is_wrong(tmp_path, monkeypatch, variable, value, message):
    import wandb

    monkeypatch.setenv(variable, value)
    wandb.teardown()  # which forgets what it has read of the environment
    with pytest.raises(UserError, match=message):
        open_loggers(["wandb"], RunFolder(tmp_path), 0)
    monkeypatch.undo()
    wandb.teardown()


def test_where_the_curves_are(tmp_path):
    assert describe_loggers(["tensorboard"], RunFolder("run")) == "shown by: tensorboard --logdir run/tensorboard"
