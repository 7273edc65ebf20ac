"""The command that sets pipelines beside the goals."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from made_up_sprites import write_file
from PIL import Image
from tiny_models import tiny_pipeline

from autoencoder.data.shapes import CLASS_NAMES
from autoencoder.data.sprites import Sprites
from autoencoder.metrics.sprites_judge import SpritesJudge, save_judge
from autoencoder.metrics.sprites_scores import SpritesScores
from benchmarks import goals
from benchmarks.goals import GoalsConfig
from benchmarks.settings import name_and_folder
from benchmarks.work.goals import SPRITES_FIGURES, sprites_findings
from benchmarks.work.sprites_judge import measure_judge, split_fingerprint
from benchmarks.work.sprites_separation import SpritesRow
from pipelines.goal_sheet import FAULT, NUM_CLIPS, goal_rows
from pipelines.goal_table import GOALS
from pipelines.goals import FIGURES, JudgedClips, Kind

FEW = ["--samples-per-class", "1", "--exchanged-pairs", "2", "--held-out-clips", "5", "--num-inference-steps", "1"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("shapes")
    tiny_pipeline(names=CLASS_NAMES, independent_times=True, num_frames=8, sample_size=32).save_pretrained(folder)
    return str(folder)


def cells(printed: str) -> dict[str, list[str]]:
    """The table's cells by caption."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_shapes_and_sprites_in_one_column(shapes, tmp_path, capsys):
    data = str(write_file(tmp_path / "sprites.npz", num_train=3, num_held_out=2))
    torch.manual_seed(0)
    judge, held_out = SpritesJudge(width=4), Sprites(data, split="val")
    record = {"test_clips": split_fingerprint(held_out), "scores": asdict(measure_judge(judge, held_out))}
    save_judge(judge, tmp_path / "judge", record)
    tiny_pipeline(names=Sprites.class_names, num_frames=8, sample_size=32).save_pretrained(tmp_path / "sprites")

    arguments = ["--pipeline", f"small={shapes}", "--pipeline", shapes, "--pipeline", f"small={shapes}", *FEW]
    arguments += ["--pipeline", f"small={tmp_path / 'sprites'}", "--judge", str(tmp_path / "judge")]
    arguments += ["--data-root", data, "--sheet", str(tmp_path / "sheet.png"), "--device", "cpu"]
    goals.main([*arguments, "--output", str(tmp_path / "goals.json")])

    table = cells(capsys.readouterr().out)
    (exchanged,) = (row for caption, row in table.items() if caption.startswith("exchanged clips: as the clip of"))
    assert exchanged == ["small", shapes]
    assert table[""] == ["goal, from scratch", "goal, trained long", "real clips", "small", shapes]
    for key in SPRITES_FIGURES:
        real, small, other = table[GOALS[key].caption][2:]
        assert real.endswith(" %") and small.endswith(" %*") and other == "not measured"
    *_, small, other = table["reconstruction: PSNR"]
    value = other.removesuffix(" dB")
    assert small == f"{value} dB ({value}, {value})"

    report = json.loads((tmp_path / "goals.json").read_text())
    assert report["benchmark"] == "goals" and report["settings"]["samples_per_class"] == 1
    assert report["goals"]["psnr"] == {"caption": "reconstruction: PSNR", "demo": 24, "long": 30, "unit": "dB"}
    assert [row["column"] for row in report["results"]] == ["small", shapes, "small", "small"]
    first, second, *_, last = report["results"]
    assert first["by_class"]["samples"].keys() == set(CLASS_NAMES) and first["sprites"] is None
    assert first["figures"] == second["figures"] and first["figures"].keys() == {*FIGURES, "psnr"}
    assert last["figures"].keys() == SPRITES_FIGURES.keys() and last["sprites"][0]["scores"]["num_clips"] == 18
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.height > 2 * 20 * 64, "both columns have 20 rows"


def test_sprites_figures_are_those_of_the_right_rows():
    def scores(action, attributes):
        return SpritesScores(10, action, 1.0, 0.0, 0.0, attributes and dict(zip("abcd", attributes, strict=True)))

    rows = {
        "real clips": scores(1.0, (1, 1, 1, 0.99)),
        "reconstructions": scores(0.9, (0.9, 0.8, 0.7, 0.95)),
        "exchanged: action of D, content of S": scores(0.8, (0.9, 0.6, 0.9, 0.9)),
        "exchanged: action of S, content of D": scores(0.1, (0.1, 0.1, 0.1, 0.1)),
        "D kept, S of N(0, 1)": scores(0.2, None),
        "S kept, D of N(0, 1)": scores(None, (0.2, 0.2, 0.2, 0.2)),
        "D kept, S of the pipeline": scores(0.7, None),
        "S kept, D of the pipeline": scores(None, (0.5, 0.9, 0.9, 0.9)),
    }
    found = sprites_findings([SpritesRow("x", "none", name, row) for name, row in rows.items()])
    assert found.figures == {
        "sprites_action_exchanged": 0.8,
        "sprites_action_sampled": 0.7,
        "sprites_attributes_exchanged": 0.6,
        "sprites_attributes_sampled": 0.5,
    }
    assert set(found.real.values()) == {1.0, 0.99} and set(found.unsampled.values()) == {0.9, 0.7}


def test_names_of_columns(tmp_path):
    assert name_and_folder("trained long=outputs/a=b") == ("trained long", "outputs/a=b")
    assert name_and_folder("shapes") == ("shapes", "shapes")
    folder = tmp_path / "a=b"
    folder.mkdir()
    assert name_and_folder(str(folder)) == (str(folder), str(folder))


def judged(right: list[bool], value: int, names: list[str] | None = None) -> JudgedClips:
    clips = torch.stack([torch.full((8, 32, 32, 3), value + index, dtype=torch.uint8) for index in range(len(right))])
    return JudgedClips(clips, [{"both": is_right} for is_right in right], names or [])


def is_red(picture: np.ndarray) -> bool:
    return bool((picture[-1] == FAULT).all())


def test_faults_stand_first_with_a_red_edge_beside_their_sources():
    right = [True, True, False, True, True, True, False]
    samples = judged(right, 10, ["circle_vertical"] * 3 + ["ring_vertical"] * 4)
    sources = judged(right, 50).clips
    exchanged = judged([True, True, False, True, False, True], 100)
    kinds = {
        "reconstructions": Kind(judged(right, 10), None, judged(right, 50), {"both": sources}),
        "exchange": Kind(exchanged, None, exchanged, {"structure": sources[:6], "dynamics": sources[:6] + 100}),
        "samples": Kind(samples, None, samples),
        "structure": Kind(samples, None, samples, {"dynamics": sources}),
    }
    rows = dict(goal_rows(kinds))
    assert len(rows) == 2 + 4 + 2 + 2 and all(len(pictures) <= NUM_CLIPS for pictures in rows.values())
    assert sum(name.startswith("small: ") for name, _ in goal_rows(kinds, "small")) == len(rows)

    (real,) = (pictures for name, pictures in rows.items() if name.startswith("real, held-out clips"))
    rebuilt = rows["reconstructions of these: 5 of 7 confirmed"]
    assert [is_red(picture) for picture in rebuilt] == [True, True, False, False, False]
    assert rebuilt[:, 40, 40, 0].tolist() == [12, 16, 10, 11, 13]
    assert real[:, 40, 40, 0].tolist() == [52, 56, 50, 51, 53] and not any(map(is_red, real))

    one, other = (
        rows["structure of A, dynamics of B; both ways 4 of 6 confirmed"],
        rows["structure of B, dynamics of A"],
    )
    assert [is_red(picture) for picture in one] == [False, True, False]
    assert [is_red(picture) for picture in other] == [True, False, False]
    assert one[:, 40, 40, 0].tolist() == [101, 102, 100] and other[:, 40, 40, 0].tolist() == [104, 105, 103]
    assert rows["real clips B"][:, 40, 40, 0].tolist() == [151, 152, 150]

    assert rows["samples of ring_vertical: 3 of 4 confirmed"][:, 40, 40, 0].tolist() == [16, 13, 14, 15]
    assert rows["structure sampled for another shape: 5 of 7 confirmed"].shape[1] > rebuilt.shape[1], "with labels"


def test_what_cannot_be_measured(shapes, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "others")
    tiny_pipeline(names=Sprites.class_names).save_pretrained(tmp_path / "sprites")
    output = ["--output", str(tmp_path / "goals.json"), "--device", "cpu"]
    with pytest.raises(ValueError, match="others samples classes of neither moving shapes nor sprites, for which"):
        goals.main(["--pipeline", shapes, "--pipeline", str(tmp_path / "others"), *output])
    with pytest.raises(ValueError, match="sprites samples sprites: give a judge of them by --judge"):
        goals.main(["--pipeline", str(tmp_path / "sprites"), *output])
    assert not (tmp_path / "goals.json").exists()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "nothing to measure: give folders of pipelines by --pipeline"),
        ({"pipelines": ["x"], "held_out_clips": 0}, "held_out_clips must be at least 1, got 0"),
        ({"pipelines": ["x"], "judged_clips": 0}, "judged_clips must be at least 1, got 0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        GoalsConfig(**settings)
