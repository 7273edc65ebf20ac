"""The demo's quick way, as a command, and its measures."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_pipeline

from autoencoder.data.shapes import CLASS_NAMES, Shapes
from autoencoder.metrics.oracle import confirmed, oracle
from pipelines import VidTwinDiffusionPipeline
from pipelines.demo import DemoConfig, main
from pipelines.demonstration import checks
from pipelines.evaluation.shares import spread

PICTURES = ("sheet.png", "samples.webp", "exchanges.webp", "controls.webp", "reconstructions.webp")
FLAGS = ["--quick", "--pipeline", "p", "--output-dir", "demo"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working directory that holds a pipeline of random weights, `p`."""
    pipe = tiny_pipeline(names=CLASS_NAMES, independent_times=True, num_frames=8, sample_size=32)
    pipe.save_pretrained(tmp_path / "p")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_demo_leaves_pictures_and_figures_of_both_pipelines(here):
    command = [sys.executable, "-m", "pipelines.demo", *FLAGS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    printed, folder = done.stdout, here / "demo"
    for place in ("shipped", "from_scratch"):
        assert sorted(path.name for path in (folder / place).iterdir()) == sorted(PICTURES)
    assert np.asarray(Image.open(folder / "curves.png")).std() > 1
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["goals"]) == ["shipped", "from scratch"]
    for found in summary["goals"].values():
        assert found["real"]["samples"] == 1.0 and 0 <= found["figures"]["exchange_content"] <= 1
    trained = summary["from scratch"]
    assert set(trained["reconstruction"]) == {"both", "structure", "dynamics", "mean frame"} and trained["rate"] <= 0.06
    assert summary["goals"]["from scratch"]["figures"]["psnr"] == pytest.approx(
        trained["reconstruction"]["both"]["psnr"], abs=0.05
    )
    assert "peak memory not measured" in trained["cost"]["sampling one video"] or torch.cuda.is_available()
    assert summary["seconds"]["in all"] == pytest.approx(sum(list(summary["seconds"].values())[:-1]))
    assert "seconds after the start" in printed and "| real clips |" in printed.replace("  ", "")
    assert (folder / "summary.txt").read_text() in printed
    pipe = VidTwinDiffusionPipeline.from_pretrained(folder / "generator/pipeline")
    assert pipe("ring_vertical", num_inference_steps=1, generator=0).frames.shape == (1, 16, 32, 32, 3)


def test_without_training_there_is_the_first_pipeline_alone(here):
    (here / "demo" / "from_scratch").mkdir(parents=True)  # of an earlier demo
    main([*FLAGS, "--train", "false", "--num-inference-steps", "1"])
    left = {path.name for path in (here / "demo").iterdir() if path.name[0] != "."}
    assert left == {"shipped", "summary.json", "summary.txt"}
    summary = json.loads((here / "demo/summary.json").read_text())
    assert list(summary["goals"]) == ["shipped"] and summary["from scratch"] is None
    with pytest.raises(ValueError, match="nothing to show: leave --train true, or name a --pipeline"):
        DemoConfig(pipeline=None, train=False)


def test_measures_on_clips_whose_answer_is_known():
    clips = Shapes(split="val")
    names = [CLASS_NAMES[clips.label(index)] for index in range(20)]
    verdicts = [oracle(clips.clip(index)) for index in range(20)]
    assert confirmed(verdicts, names) == {"shape": 1.0, "motion": 1.0, "both": 1.0}
    swapped = [name.replace("horizontal", "vertical") for name in names]
    assert confirmed(verdicts, swapped) == {"shape": 1.0, "motion": 0.5, "both": 0.5}
    assert spread(verdicts, names)["colour"] > 0.05
    assert spread([verdicts[0]] * 4, names[:1] * 4) == {"colour": 0.0, "place": 0.0}
    assert np.isnan(spread(verdicts[:1], names[:1])["colour"])


@pytest.mark.parametrize("lost", ["structure", "dynamics"])
def test_a_latent_that_carries_the_clip_alone_is_told(lost):
    psnr = {"both": 25.0, "structure": 20.0, "dynamics": 20.0, "mean frame": 19.0}
    trained = {"reconstruction": {view: {"psnr": value} for view, value in psnr.items()}, "rate": 0.05}
    assert all(checks(trained).values())
    trained["reconstruction"][lost]["psnr"] = 24.0
    assert [text for text, met in checks(trained).items() if not met] == [
        "leaving out either latent costs at least 2 dB"
    ]
