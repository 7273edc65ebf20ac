"""The demo's quick way, as a command, and its measures."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from autoencoder.data.shapes import CLASS_NAMES, Shapes
from autoencoder.data.video_io import ClipReader
from autoencoder.metrics.oracle import confirmed, oracle
from pipelines import VidTwinDiffusionPipeline
from pipelines.demonstration import goals
from pipelines.evaluation.shares import spread


def test_quick_demo_leaves_everything(tmp_path):
    folder = tmp_path / "demo"
    command = [sys.executable, "-m", "pipelines.demo", "--quick", "--output-dir", str(folder)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in CLASS_NAMES:
        assert ClipReader(16, sample_fps=None).read(folder / f"{name}.mp4").shape == (16, 32, 32, 3)
    for name in ("sheet.png", "curves.png"):
        assert np.asarray(Image.open(folder / name)).std() > 1
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["oracle"]["real clips"] == {"shape": 1.0, "motion": 1.0, "both": 1.0}
    assert set(summary["reconstruction"]) == {"both", "structure", "dynamics", "mean frame"}
    assert summary["rate"] <= 0.06
    assert summary["goals"] == {}
    assert "peak memory not measured" in summary["cost"]["sampling one video"] or torch.cuda.is_available()
    pipe = VidTwinDiffusionPipeline.from_pretrained(folder / "generator/pipeline")
    assert pipe("ring_vertical", num_inference_steps=1, generator=0).frames.shape == (1, 16, 32, 32, 3)


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
def test_a_latent_that_carries_the_clip_alone_misses_the_goal(lost):
    psnr = {"both": 25.0, "structure": 20.0, "dynamics": 20.0, "mean frame": 19.0}
    summary = {
        "reconstruction": {view: {"psnr": value} for view, value in psnr.items()},
        "oracle": {"samples": {"both": 0.95}},
        "rate": 0.05,
    }
    assert all(goals(summary).values())
    summary["reconstruction"][lost]["psnr"] = 24.0
    assert [goal for goal, met in goals(summary).items() if not met] == [
        "leaving out either latent costs at least 2 dB"
    ]
