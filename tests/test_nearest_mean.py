"""Judges of real clips: the nearest class mean, and what a colour histogram sees."""

import pytest
import torch

from autoencoder.common.errors import UserError
from autoencoder.metrics.nearest_mean import BINS, NearestMean, colour_histogram, left_out_verdicts


def test_the_nearest_mean_is_that_of_the_smallest_angle():
    features = torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.0, 2.0], [0.2, 9.0]])
    judge = NearestMean(features, [7, 7, 3, 3])
    assert judge.classes.tolist() == [3, 7]
    assert judge(torch.tensor([[100.0, 1.0], [0.1, 0.2], [-1.0, 2.0]])).tolist() == [7, 3, 3]
    with pytest.raises(UserError, match="one label per clip, got 3 for 4"):
        NearestMean(features, [7, 7, 3])


def test_a_group_is_judged_by_the_others_alone():
    draw = torch.Generator().manual_seed(0)
    labels, groups = torch.arange(2).repeat(30), torch.arange(3).repeat_interleave(20)
    features = torch.eye(2)[labels] + 0.1 * torch.randn(60, 2, generator=draw)
    assert torch.equal(left_out_verdicts(features, labels, groups), labels)
    features[groups == 2] = features[groups == 2].flip(1)  # one person does the one action as the others the other
    assert (left_out_verdicts(features, labels, groups) == labels)[groups == 2].sum() == 0
    with pytest.raises(UserError, match="there is only one"):
        left_out_verdicts(features, labels, torch.zeros(60))


def test_a_histogram_knows_colours_and_not_places():
    frames = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    histogram = colour_histogram(frames)
    assert histogram.shape == (BINS**3,) and histogram.square().sum().item() == pytest.approx(1, abs=1e-5)
    moved = frames.flatten(0, 2)[torch.randperm(256)].view(4, 8, 8, 3)
    torch.testing.assert_close(colour_histogram(moved), histogram)


def test_a_small_change_of_colour_is_a_small_change_of_the_histogram():
    def plain(red: int, green: int, blue: int) -> torch.Tensor:
        return colour_histogram(torch.tensor([red, green, blue], dtype=torch.uint8).expand(1, 4, 4, 3))

    here = plain(100, 50, 200)
    likeness = [(here @ plain(100 + step, 50, 200)).item() for step in (0, 5, 15, 60, 120)]
    assert likeness == sorted(likeness, reverse=True) and likeness[1] > 0.85 and likeness[-1] == 0
    corner = plain(255, 0, 255).view(BINS, BINS, BINS)
    assert corner[-1, 0, -1] == 1 and corner.sum() == 1
