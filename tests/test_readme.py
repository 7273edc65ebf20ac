"""The Python of the README runs as it stands, on models small enough for tests."""

import re
from pathlib import Path

import pytest
import torch
from test_sample_evaluation import Colours
from tiny_models import tiny_pipeline
from video_files import make_video

from autoencoder.data.shapes import CLASS_NAMES
from autoencoder.metrics import I3D
from pipelines import folders

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation",  # in diffusers' schedulers
    "ignore:.*videos are few for",
)
README = Path(__file__).parents[1] / "README.md"


def test_every_block_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 5
    pipe = tiny_pipeline(names=CLASS_NAMES, independent_times=True)
    for folder in ("outputs/generator/run-001/pipeline", "shipped/shapes"):
        pipe.save_pretrained(tmp_path / folder)
    pipe.vae.save_pretrained(tmp_path / "outputs/autoencoder/run-001/model")
    make_video(tmp_path / "scene.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(I3D, "from_file", lambda path: Colours())  # its weights are the user's
    monkeypatch.setattr(I3D, "installed", Colours)  # which takes less time
    videos = torch.rand(8, 3, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    names = {"video": torch.zeros(2, 3, 4, 16, 16), "real_videos": videos, "sampled_videos": videos.flip(0) ** 2}
    for block in blocks:
        exec(compile(block, README.name, "exec"), names)
    assert all((tmp_path / name).stat().st_size for name in ("ring.mp4", "sample.mp4"))
    assert names["out"].frames.shape == names["again"].frames.shape == (1, 4, 16, 16, 3)
