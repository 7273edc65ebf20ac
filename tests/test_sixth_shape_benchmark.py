"""The benchmark of a sixth shape: what it trains, what it takes over, and what it says of clips that are right."""

import json
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_pipeline

from autoencoder.common.errors import UserError
from autoencoder.data import Shapes
from autoencoder.data.shapes import ALL_CLASS_NAMES, CLASS_NAMES
from benchmarks import sixth_shape
from benchmarks.sixth_shape import SixthShapeConfig
from benchmarks.work import sixth_shape as work
from generator.lora import add_lora
from generator.lora_weights import LoraWeights, base_identity

pytest.importorskip("peft")


@pytest.fixture
def ran(tmp_path, monkeypatch) -> list[list[str]]:
    """Flags of the trainings, each of which leaves a LoRA and the pipeline fused with it."""
    monkeypatch.chdir(tmp_path)
    base = tiny_pipeline(names=CLASS_NAMES, num_frames=8, sample_size=32)
    base.save_pretrained("base")
    model = tiny_pipeline(names=CLASS_NAMES, num_frames=8, sample_size=32).transformer
    add_lora(model, 2, None, ["attention"], work.NEW_CLASSES)
    weights, calls = LoraWeights.trained(model, base_identity(base.transformer)), []

    def start(module: str, flags: list[str]) -> None:
        assert module == "generator.train"
        calls.append(flags)
        folder = Path(flags[flags.index("--output-dir") + 1])
        weights.save(folder / "lora")
        base.load_lora_weights(folder / "lora")
        base.fuse_lora()
        base.unload_lora_weights()
        base.save_pretrained(folder / "pipeline")
        base.transformer.remove_classes(work.NEW_CLASSES)

    monkeypatch.setattr(work, "start_command", start)
    return calls


def test_all_are_trained_and_judged_and_nothing_twice(ran, capsys):
    flags = ["--pipeline=base", "--samples-per-class=1", "--num-inference-steps=1", "--output-dir=out"]
    flags += ["--held-out-clips=12"]
    sixth_shape.main([*flags, "--sheet=sheet.png", "--max-steps=7"])
    assert len(ran) == 2 and ran[0][-2:] == ["--max-steps", "7"] and "--lora-replay" in ran[1]
    assert ran[0][ran[0].index("--classes") + 1] == "diamond_horizontal,diamond_vertical"
    printed, results = capsys.readouterr().out, json.loads(Path("out/sixth_shape.json").read_text())
    rows = {row["clips"]: row for row in results["results"]}
    assert rows["held-out clips"]["old"] == rows["held-out clips"]["new"] == 1.0
    assert rows["base"]["new"] is None and "| base |" in printed and "not known" in printed
    tuned = rows["LoRA with replay, seed 0"]
    assert tuned["by_class"].keys() == set(ALL_CLASS_NAMES) and tuned["processor_seconds"] >= 0
    assert results["fused_unfused"] <= 1e-5 and Path("sheet.png").is_file()
    sixth_shape.main([*flags, "--max-steps=7"])
    assert len(ran) == 2, "what is there is taken over"
    sixth_shape.main([*flags, "--max-steps=8", "--without-replay=false"])
    assert len(ran) == 3 and ran[2][-1] == "8"


def test_the_share_is_that_of_clips_which_show_what_was_asked_for():
    data = Shapes(16, 32, "val", ALL_CLASS_NAMES)
    clips, names = torch.stack([data.clip(i) for i in range(24)]), [data.class_names[data.label(i)] for i in range(24)]
    row = work._row("real", clips, names)
    assert (row.old, row.new) == (1.0, 1.0)
    swapped = [names[-1], *names[1:-1], names[0]]  # a circle called a diamond, and the other way round
    row = work._row("wrong", clips, swapped)
    assert row.old == pytest.approx(19 / 20) and row.new == pytest.approx(3 / 4)
    assert "| wrong | 95.0% | 75.0% | circle_horizontal 50% |  |  |" in work.table([row])


def test_two_classes_need_two_clips():
    with pytest.raises(UserError, match="num_clips must be at least 2, for there are two new classes, got 1"):
        SixthShapeConfig(num_clips=1)
