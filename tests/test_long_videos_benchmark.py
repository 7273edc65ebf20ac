"""The benchmark of videos longer than a clip."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_pipeline

from autoencoder.data.shapes import CLASS_NAMES, Shapes, render
from benchmarks import long_videos as command
from benchmarks.long_videos import LongVideosConfig
from benchmarks.work.long_videos import joins, jump, kink, measure_video, real_videos, summarize

OPTIONS = {"num_frames": 8, "sample_size": 32, "independent_times": True}


@pytest.mark.parametrize(
    "num_frames, overlap, places",
    [(64, 0, [16, 32, 48]), (64, 8, [16, 24, 32, 40, 48, 56]), (40, 12, [*range(16, 40, 4)])],
)
def test_joins_are_where_new_frames_begin(num_frames, overlap, places):
    assert joins(num_frames, 16, overlap).tolist() == places


def test_a_jump_and_a_kink_are_seen_at_joins_alone():
    steps = torch.tensor([1, 1, 1, 4, 1, 1, 1])  # the fifth frame begins a clip
    frames = torch.cat([torch.zeros(1), steps.cumsum(0)])[:, None, None, None].expand(8, 2, 2, 3).to(torch.uint8)
    assert jump(frames, np.array([4])) == pytest.approx(4)
    assert jump(frames, np.array([3])) == pytest.approx(1 / 1.5)
    path = np.stack([np.array([0, 1, 2, 3, 0, 1, 3, 4.0]), np.zeros(8)], axis=1)
    assert kink(path, np.array([4])) == pytest.approx(((4 + 4) / 2) / ((0 + 0 + 1 + 1) / 4))
    path[4] = np.nan
    assert np.isnan(kink(path, np.array([4])))


def test_real_swings_are_confirmed_and_others_are_not():
    held_out, name = Shapes(16, 32, "val"), "circle_vertical"
    config = LongVideosConfig("none", num_frames=64, videos_per_class=1)
    real = real_videos(config, held_out)
    assert real.frames.shape == (10, 64, 32, 32, 3) and real.class_names == list(CLASS_NAMES)
    good = [measure_video(frames, name, 16, 8) for frames, name in zip(real.frames, real.class_names, strict=True)]
    row = summarize(real, good)
    assert row.whole == row.by_clip == row.content_kept == row.last_as_first == 1 and row.jump < 1.5 and row.kink < 2
    others = [render(held_out.content(index), held_out.motion(index), 32) for index in (1, 11, 3, 21)]
    mixed = measure_video(torch.cat(others), name, 16, 0)
    assert mixed.by_clip == 0.75 and not mixed.whole and mixed.content_kept == 0 and mixed.jump > 1.5


def test_all_rows_of_a_pipeline(tmp_path, capsys):
    tiny_pipeline(names=CLASS_NAMES, frame_times=True, **OPTIONS).save_pretrained(tmp_path / "pipeline")
    common = ["--pipeline", str(tmp_path / "pipeline"), "--num-frames", "16", "--videos-per-class", "1"]
    common += ["--overlaps", "[2, 4]", "--strengths", "[0.5]", "--num-inference-steps", "2", "--device", "cpu"]
    command.main([*common, "--json", str(tmp_path / "long.json"), "--sheet", str(tmp_path / "sheet.png")])
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "long.json").read_text())
    assert report["benchmark"] == "long_videos" and report["settings"]["overlaps"] == [2, 4]
    assert [(row["videos"], row["overlap"]) for row in report["results"]] == [
        ("real swings", 0),
        ("real dynamics, first structure", 0),
        ("structure kept, clips not chained", 0),
        ("structure kept", 2),
        ("structure kept", 4),
        ("structure drawn again, 0.5 of the steps", 4),
    ]
    assert [row["overlap"] for row in report["places"]] == [2, 4]
    assert all(row["difference"] > 0 and row["psnr_own"] > 0 for row in report["places"])
    assert all(f"| {row['videos']} | {row['overlap']} |" in printed for row in report["results"])
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.height > 6 * 64


def test_errors(tmp_path):
    for name, options in (("short", {}), ("other", {"frame_times": True, "names": ("a", "b")})):
        tiny_pipeline(**{"names": CLASS_NAMES, **OPTIONS, **options}).save_pretrained(tmp_path / name)
    short, other = (["--pipeline", str(tmp_path / name), "--device", "cpu"] for name in ("short", "other"))
    with pytest.raises(ValueError, match="other classes than moving shapes"):
        command.main(other)
    with pytest.raises(ValueError, match="num_frames=20 are not two or more whole clips of 8 frames"):
        command.main([*short, "--num-frames", "20"])
    with pytest.raises(ValueError, match="--objective.history_share"):
        command.main(short)
    with pytest.raises(ValueError, match="overlaps is an empty list"):
        command.main([*short, "--overlaps", "[]"])
