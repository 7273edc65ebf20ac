"""The Python of the documentation runs as it stands, on models small enough for tests."""

import pytest
import torch
from pages import PAGES, blocks, read
from test_sample_evaluation import Colours
from tiny_models import tiny_pipeline
from video_files import make_video

from autoencoder.data.shapes import CLASS_NAMES
from autoencoder.metrics import I3D
from generator.lora import add_lora
from generator.lora_weights import LoraWeights, base_identity
from pipelines import folders

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation",  # in diffusers' schedulers
    "ignore:.*videos are few for",
)
WRITTEN = {"README.md": ["sample.mp4"], "docs/sampling.md": ["ring.mp4", "sample-7.mp4", "grid.gif", "long.mp4"]}
WITH_PYTHON = [page for page in PAGES if blocks(read(page), "python")]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with what the pages take for given: trained models and a video."""
    pipe = tiny_pipeline(names=CLASS_NAMES, independent_times=True, frame_times=True)
    for folder in ("outputs/generator/run-001/pipeline", "shipped/shapes"):
        pipe.save_pretrained(tmp_path / folder)
    pipe.vae.save_pretrained(tmp_path / "outputs/autoencoder/run-001/model")
    base = base_identity(pipe.transformer)
    add_lora(pipe.transformer, 2, None, ["attention"], ["diamond_horizontal", "diamond_vertical"])
    LoraWeights.trained(pipe.transformer, base).save(tmp_path / "outputs/generator/run-001/lora")
    make_video(tmp_path / "scene.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(I3D, "from_file", lambda path: Colours())  # its weights are the user's
    monkeypatch.setattr(I3D, "installed", Colours)  # which takes less time
    return tmp_path


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_every_block_of_a_page_runs(page, workplace):
    videos = torch.rand(8, 3, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    names = {"video": torch.zeros(2, 3, 4, 16, 16), "real_videos": videos, "sampled_videos": videos.flip(0) ** 2}
    for block in blocks(read(page), "python"):
        exec(compile(block, page, "exec"), names)
    assert all((workplace / name).stat().st_size for name in WRITTEN.get(page, []))
    shown = [names[name].frames.shape for name in ("out", "again", "moved") if name in names]
    assert {shape[1:] for shape in shown} <= {(4, 16, 16, 3), (64, 16, 16, 3)}


def test_the_pages_that_show_python_are_found():
    assert {"README.md", "docs/sampling.md", "docs/control.md", "docs/evaluation.md"} <= set(WITH_PYTHON)
    assert sum(len(blocks(read(page), "python")) for page in WITH_PYTHON) >= 8


def test_the_readme_shows_what_people_type():
    """The usages that the project is asked for, word by word, and room for one screen of each."""
    text = read("README.md")
    for usage in ("python -m autoencoder.train", "python -m generator.train --dataset ucf101", "(class_id=5)"):
        assert usage in text
    assert text.index("pip install") < text.index("from vidtwin import") < text.index("out.save(") < text.index("| I")
    assert len(text.splitlines()) < 200
