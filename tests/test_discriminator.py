"""The PatchGAN: its shapes, its initial weights, and what BatchNorm makes of two calls."""

import pytest
import torch
from torch import nn

from autoencoder.training.discriminator import PatchDiscriminator


@pytest.fixture
def discriminator() -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator()


def test_size_and_patches(discriminator):
    """The count of a 3-layer PatchGAN of width 64 with BatchNorm; 224 pixels leave 26 x 26 patches."""
    assert sum(weight.numel() for weight in discriminator.parameters()) == 2_765_633
    with torch.device("meta"):
        logits = PatchDiscriminator()(torch.empty(2, 3, 4, 224, 224))
    assert logits.shape == (2 * 4, 1, 26, 26)


def test_initial_weights(discriminator):
    convolutions = [layer for layer in discriminator.main if isinstance(layer, nn.Conv2d)]
    assert [layer.bias is not None for layer in convolutions] == [True, False, False, False, True]
    for layer in convolutions:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    gains = torch.cat([layer.weight for layer in discriminator.main if isinstance(layer, nn.BatchNorm2d)])
    assert gains.mean().item() == pytest.approx(1.0, abs=0.005)
    assert gains.std().item() == pytest.approx(0.02, rel=0.1)


def test_frames_are_judged_one_by_one():
    """With the running statistics, which every frame shares, the order of frames and clips does not matter."""
    discriminator = PatchDiscriminator(width=4).eval()
    video = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = discriminator(video).unflatten(0, (2, 3))
    torch.testing.assert_close(discriminator(video[1:, :, 2:]), logits[1, 2:])


def test_real_and_fake_in_one_call_is_something_else():
    discriminator = PatchDiscriminator(width=4)
    real, fake = torch.randn(2, 1, 3, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    together = discriminator(torch.cat([real, 3 * fake]))
    apart = torch.cat([discriminator(real), discriminator(3 * fake)])
    assert (together - apart).abs().max() > 1e-3


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_frames_too_small(num_layers):
    discriminator = PatchDiscriminator(width=2, num_layers=num_layers)
    least = discriminator.min_size
    assert discriminator(torch.zeros(1, 3, 2, least, least)).shape == (2, 1, 1, 1)
    with pytest.raises(ValueError, match=f"{least - 1} x {least} are too small.*at least {least}"):
        discriminator(torch.zeros(1, 3, 2, least - 1, least))


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="got 64 and 0"):
        PatchDiscriminator(num_layers=0)
