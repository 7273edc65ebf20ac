"""Shipping a trained pipeline: what its folder and its card say of the two runs."""

import re
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_models import tiny_pipeline, tiny_vae
from torch.utils.tensorboard import SummaryWriter

from autoencoder.common.errors import UserError
from autoencoder.common.presets import preset_path
from autoencoder.data.shapes import CLASS_NAMES
from pipelines import VidTwinDiffusionPipeline, shipping
from pipelines.goals import Findings
from pipelines.ship import main
from pipelines.shipping import preset_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers' schedulers


def make_run(folder: Path, stage: str, preset: str, hours: float, **settings) -> None:
    """The records and the config of a run of a preset, in two parts of equal length."""
    settings = yaml.safe_load(preset_path(stage, preset).read_text()) | settings
    settings |= {"precision": "bf16", "output_dir": str(folder), "autoencoder": "/home/me/model", "resume": True}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"dataset": "shapes", "seed": 3, **settings}))
    for part in ("evening", "morning"):
        writer = SummaryWriter(folder / "tensorboard", filename_suffix=f".{part}")
        writer.add_text("machine", "one chip")
        writer.add_scalar("loss", 1.0, walltime=time.time() + hours * 1800)
        writer.close()


@pytest.fixture
def runs(tmp_path) -> list[str]:
    """The flags of two runs that belong together."""
    make_run(tmp_path / "first", "autoencoder", "control", hours=2.0)
    make_run(tmp_path / "second", "generator", "shapes", hours=0.5, max_steps=77)
    pipe = tiny_pipeline(names=CLASS_NAMES, independent_times=True, num_frames=8, sample_size=32)
    pipe.vae.save_pretrained(tmp_path / "first" / "model")
    loaded = {"vae": type(pipe.vae).from_pretrained(tmp_path / "first" / "model")}
    pipe = VidTwinDiffusionPipeline(**pipe.components | loaded, training={"data": "shapes", "steps": 77})
    pipe.save_pretrained(tmp_path / "second" / "pipeline")
    out = ["--out", str(tmp_path / "shipped" / "mine"), "--device", "cpu"]
    return ["--autoencoder", str(tmp_path / "first"), "--generator", str(tmp_path / "second"), *out]


def rows_of(card: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_the_folder_holds_the_weights_the_settings_and_a_card(runs, tmp_path, monkeypatch, capsys):
    found = Findings({"samples": 0.955, "psnr": 30.25})
    monkeypatch.setattr(shipping, "measure_goals", lambda pipe, settings: found)
    main(runs)
    out = tmp_path / "shipped" / "mine"
    assert f"wrote {out}, 0." in capsys.readouterr().out
    for part in ("vae", "transformer"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert (out / name).read_bytes() == (tmp_path / "second/pipeline" / name).read_bytes()
        assert {tensor.dtype for tensor in load_file(out / name).values()} == {torch.float32}
    texts = [path.read_text() for path in out.rglob("*") if path.suffix != ".safetensors" and path.is_file()]
    assert not [text for text in texts if "/home/me" in text or str(tmp_path) in text]
    assert yaml.safe_load((out / "generator.yaml").read_text())["max_steps"] == 77
    rows = rows_of((out / "README.md").read_text())
    assert rows["preset"] == ["control", "none"]  # a preset with other steps is another recipe
    assert rows["seed"] == ["3", "3"] and rows["steps"] == ["2,500", "77"] and rows["precision"] == ["bf16", "bf16"]
    assert rows["time, by its records"] == ["2 h 0 min", "30 min"] and rows["machine"] == ["one chip"] * 2
    assert rows["samples: shape and motion as asked"] == ["95.5 % (goal: 95 %)"]
    assert rows["reconstruction: PSNR"] == ["30.25 dB (goal: 30 dB)"]
    assert rows["D given S and a motion: shape kept"] == ["not measured (goal: 90 %)"]
    pipe = VidTwinDiffusionPipeline.from_pretrained(out)
    assert pipe("ring_vertical", num_inference_steps=1, generator=0).frames.shape == (1, 8, 32, 32, 3)


def test_the_run_that_the_autoencoder_started_from_is_told_as_well(runs, tmp_path):
    make_run(tmp_path / "start", "autoencoder", "tiny", hours=0.2, seed=5)
    path = tmp_path / "first" / "config.yaml"
    path.write_text(path.read_text() + f"init_from: {tmp_path / 'start'}\n")
    with pytest.raises(FileNotFoundError, match="start left no model/: it has to end first"):
        main([*runs, "--measure", "false"])
    (tmp_path / "start" / "model").mkdir()
    main([*runs, "--measure", "false"])
    out = tmp_path / "shipped" / "mine"
    rows = rows_of((out / "README.md").read_text())
    assert rows["preset"] == ["control", "tiny", "none"] and rows["seed"] == ["3", "5", "3"]
    assert yaml.safe_load((out / "autoencoder_start.yaml").read_text())["seed"] == 5
    path.write_text(path.read_text().replace(str(tmp_path / "start"), str(tmp_path / "start" / "model")))
    main([*runs, "--measure", "false"])
    assert yaml.safe_load((out / "autoencoder_start.yaml").read_text())["seed"] == 5
    assert str(tmp_path) not in (out / "autoencoder.yaml").read_text()


def test_a_shipped_pipeline_tells_of_its_own_trainings(runs, tmp_path):
    main([*runs, "--measure", "false"])
    earlier, out = tmp_path / "shipped" / "mine", tmp_path / "shipped" / "next"
    make_run(tmp_path / "third", "generator", "shapes", hours=0.1, max_steps=9, init_from=str(earlier))
    (tmp_path / "second" / "pipeline").rename(tmp_path / "third" / "pipeline")
    flags = ["--generator", str(tmp_path / "third"), "--out", str(out), "--measure", "false", "--device", "cpu"]
    main(["--autoencoder", str(earlier), *flags])
    card = (out / "README.md").read_text()
    assert "| | autoencoder | generator | generator_start |" in card
    rows = rows_of(card)
    assert rows["preset"] == ["control", "none", "none"] and rows["steps"] == ["2,500", "9", "77"]
    assert rows["all settings"][2] == "[generator_start.yaml](generator_start.yaml)"
    assert yaml.safe_load((out / "generator_start.yaml").read_text())["max_steps"] == 77
    with pytest.raises(UserError, match="was trained on the latents of the autoencoder .*, that of shapes is"):
        main(["--autoencoder", "shapes", *flags])
    (earlier / "generator.yaml").unlink()
    with pytest.raises(UserError, match="mine does not say how its generator was trained: give the run itself"):
        main(["--autoencoder", str(earlier), *flags])


def test_a_pipeline_is_replaced_and_any_other_folder_is_not(runs, tmp_path):
    out = tmp_path / "shipped" / "mine"
    out.mkdir(parents=True)
    (out / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="mine exists and holds no pipeline"):
        main([*runs, "--measure", "false"])
    (out / "model_index.json").write_text("{}")
    main([*runs, "--measure", "false"])
    assert not (out / "letter.txt").exists()
    rows = rows_of((out / "README.md").read_text())
    assert rows["samples: shape and motion as asked"] == ["not measured (goal: 95 %)"] and "judged by" not in rows


def test_what_is_too_large_is_not_left_behind(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "MAX_BYTES", 100_000)
    with pytest.raises(ValueError, match=r"mine would take 0\.\d\d MB, a shipped pipeline takes at most 0 MB"):
        main([*runs, "--measure", "false"])
    assert not list((tmp_path / "shipped").iterdir())


def test_runs_that_have_not_ended_or_do_not_belong_together(runs, tmp_path):
    torch.manual_seed(1)
    tiny_vae(8, 32).save_pretrained(tmp_path / "first" / "model")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'second'} was trained on the latents of the autoenc")):
        main([*runs, "--measure", "false"])
    (tmp_path / "second" / "pipeline").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="second left no pipeline/: it has to end first"):
        main(runs)
    with pytest.raises(FileNotFoundError, match="shipped is no folder of a run"):
        main(["--autoencoder", str(tmp_path / "shipped"), *runs[2:]])


def test_a_preset_is_known_by_all_its_settings():
    for stage, name in (("autoencoder", "tiny"), ("autoencoder", "control"), ("generator", "ucf101")):
        settings = yaml.safe_load(preset_path(stage, name).read_text())
        assert preset_of(stage, settings | {"precision": "fp32", "seed": 7}) == name
        assert preset_of(stage, settings | {"batch_size": 3}) != name
