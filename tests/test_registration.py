"""Clips of one place that are moved to meet each other."""

import numpy as np
import pytest
import torch

from autoencoder.common.errors import UserError
from autoencoder.data.registration import aligned, still_shift, texture
from autoencoder.training.config import ExchangeConfig
from autoencoder.training.exchange import Exchange, ExchangedClips


def wall(size: int = 96) -> torch.Tensor:
    """A faintly textured wall, uint8 (size, size, 3)."""
    draw = np.random.default_rng(0)
    rough = draw.normal(size=(size, size)).cumsum(0).cumsum(1)
    rough = rough - np.roll(rough, 3, 0) - np.roll(rough, 3, 1) + np.roll(rough, (3, 3), (0, 1))
    return torch.from_numpy((150 + 4 * rough).clip(0, 255).astype(np.uint8))[..., None].expand(-1, -1, 3)


def film(top: int, left: int, person: int, size: int = 64) -> torch.Tensor:
    """8 frames of the wall from there, before which somebody dark stands and waves."""
    frames = wall()[top : top + size, left : left + size].expand(8, -1, -1, -1).clone()
    frames[:, 24:, person : person + 6] = torch.tensor([20, 20, 60], dtype=torch.uint8)
    for number in range(8):
        frames[number, 20 + number : 22 + number, person + 6 : person + 12] = 30
    return frames


@pytest.mark.parametrize("down, right", [(0, 0), (5, -3), (-7, 7), (1, 0)])
def test_the_wall_is_met_though_somebody_stands_elsewhere_before_it(down, right):
    target, other = film(20, 20, person=18), film(20 + down, 20 + right, person=12)
    assert still_shift(other, target, 9) == (down, right)
    moved = aligned(other, target, 0.15)
    assert moved.shape == target.shape and moved.dtype == torch.uint8
    inside = slice(9, -9)
    assert torch.equal(moved[:, inside, 40:-9], target[:, inside, 40:-9]), "beside both people"


def test_a_shift_is_no_larger_than_allowed():
    target, other = film(20, 20, 18), film(32, 20, 18)
    assert max(map(abs, still_shift(other, target, 4))) <= 4
    assert torch.equal(aligned(other, target, 0.0), other)
    with pytest.raises(UserError, match=r"exchange.align must lie in \[0, 0.5\), got 0.5"):
        ExchangeConfig(align=0.5)


def test_strong_edges_count_no_more_than_faint_ones():
    grain = texture(film(20, 20, 18)).abs()
    assert grain.max() == grain.median() > 0
    plain = torch.full((4, 16, 16, 3), 90, dtype=torch.uint8)
    assert texture(plain).abs().max() == 0 and still_shift(plain, plain, 5) == (0, 0)


class Films:
    """One film, and a companion of it from elsewhere."""

    flip_invariant = True

    def __len__(self) -> int:
        return 1

    def label(self, index: int) -> int:
        return 0

    def clip(self, index, rng=None) -> torch.Tensor:
        return film(20, 20, 18)

    def companion(self, index, rng, same_clip=False) -> torch.Tensor:
        return film(24, 15, 12)


@pytest.mark.parametrize("flip", [False, True])
def test_companions_are_aligned_in_training(flip):
    def error(align: float) -> float:
        exchange = Exchange(ExchangeConfig(share=1.0, align=align), 0, 4)
        clips = ExchangedClips(Films(), 0, flip, exchange)
        found = [clips[position, 0]["sample"] for position in range(8)]
        pairs = [(sample["structure_source"].float(), sample["video"].float()) for sample in found]
        return np.mean([(one - other).abs().median().item() for one, other in pairs])

    assert error(0.2) < 1 < error(0.0)
