"""Where a pipeline lies: folders, and shipped pipelines by name."""

from pathlib import Path

import pytest
from tiny_models import tiny_pipeline

from pipelines import VidTwinDiffusionPipeline, folders, pretrained
from pipelines.folders import pipeline_folder
from pipelines.sample import main as sample

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers' schedulers


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """Two shipped pipelines, and an empty working directory."""
    for name in ("shapes", "dots"):
        tiny_pipeline(names=(name, "other")).save_pretrained(tmp_path / "shipped" / name)
    (tmp_path / "shipped" / "half").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(folders, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "shipped"


def test_a_shipped_pipeline_is_loaded_by_its_name(shipped):
    assert pretrained("shapes") == shipped / "shapes"
    pipe = VidTwinDiffusionPipeline.from_pretrained(pretrained("dots"))
    assert pipe.transformer.config.id2label["0"] == "dots"


@pytest.mark.parametrize("name, hint", [("shape", ": did you mean shapes?"), ("half", ""), ("../here", "")])
def test_an_unknown_name_is_told_those_there_are(shipped, name, hint):
    with pytest.raises(FileNotFoundError) as caught:
        pretrained(name)
    assert str(caught.value) == f"no pipeline {name!r} is shipped{hint}; there are dots, shapes"


def test_without_any_there_are_none(monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "SHIPPED", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no pipeline 'shapes' is shipped; there are none"):
        pretrained("shapes")


def test_a_folder_comes_before_a_name_and_never_gives_way_to_it(shipped):
    assert pipeline_folder(Path("shapes")) == shipped / "shapes"
    Path("shapes").mkdir()
    with pytest.raises(FileNotFoundError, match="shapes is no pipeline folder.*It hides the shipped pipeline of that"):
        pipeline_folder("shapes")
    tiny_pipeline().save_pretrained("shapes")
    assert pipeline_folder("shapes") == Path("shapes")
    with pytest.raises(FileNotFoundError, match="shapez is no pipeline folder.*known by name: dots, shapes"):
        pipeline_folder("shapez")
    with pytest.raises(FileNotFoundError, match="here/dots is no pipeline folder"):
        pipeline_folder("../here/dots")


def test_a_command_takes_the_name(shipped):
    sample(["--pipeline", "dots", "--class", "dots", "--num-inference-steps", "1", "--out", "out", "--device", "cpu"])
    assert Path("out/dots_0.mp4").stat().st_size
