"""The documented commands for films of people, on real ones: both stages and the benchmark."""

import importlib
import json
from pathlib import Path

import pytest
from pages import commands_of
from test_people_benchmark import Motion, NoLpips
from test_ucf101_mini import TINY_MODEL

from autoencoder.data import DataConfig
from benchmarks.work import people as work

FILMS = Path(__file__).parents[2] / "shared" / "actions"
pytestmark = [
    pytest.mark.skipif(not FILMS.is_dir(), reason=f"{FILMS} is absent"),
    pytest.mark.filterwarnings("ignore:__array__ implementation", "ignore:.*videos are few for"),
]
STEPS = {"max-steps": 2, "batch-size": 2, "num-workers": 0}
TINY = {f"model.{name}": n for name, n in TINY_MODEL.items()} | {"accelerator": "cpu"}
SMALL = [
    STEPS | TINY | {"squared-error-steps": 1, "exchange.structure-only-steps": 1},
    STEPS | TINY,
    STEPS
    | {"sample-steps": 2, "clips-per-video": 2, "validate-every": 2}
    | {"model.hidden-size": 16, "model.num-layers": 1, "model.num-attention-heads": 2},
    {"clips-per-video": 2, "pairs": 4, "seeds": 1, "num-inference-steps": 1, "device": "cpu"},
]


def test_the_documented_commands_run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("films").symlink_to(FILMS)
    monkeypatch.setattr(work, "I3D", Motion)
    monkeypatch.setattr(work, "VideoLPIPS", NoLpips)
    commands = commands_of("docs/control.md", "On films of people", "clips64")
    assert [module for module, _ in commands] == 2 * ["autoencoder.train"] + ["generator.train", "benchmarks.people"]
    for (module, arguments), settings in zip(commands, SMALL, strict=True):
        small = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        importlib.import_module(module).main([*arguments, *small])
    printed = capfd.readouterr().out
    assert "24 clips of 4 classes" in printed and "moved to meet the clip" in printed
    assert "LPIPS x 0.5" in printed and "| held-out people |" in printed
    (found,) = json.loads(Path("outputs/benchmarks/people.json").read_text())["results"]
    assert {row["given"] for row in found["samples"]} == {"nothing", "training", "held-out"}
    assert Path("people.png").stat().st_size > 10_000


def test_nobody_is_in_both_parts():
    held_out = ["person06", "person07"]
    config = DataConfig("folder", str(FILMS), content_pattern=r"person\d+", held_out_contents=held_out)
    parts = {split: config.build(split, 16, 64).listing for split in ("train", "val")}
    people = {
        split: {listing.content_names[content] for content in listing.contents} for split, listing in parts.items()
    }
    assert people["val"] == set(held_out) and len(people["train"]) == 6 and not people["train"] & people["val"]
    assert {split: len(listing.paths) for split, listing in parts.items()} == {"train": 24, "val": 8}
