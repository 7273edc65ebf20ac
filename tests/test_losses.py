"""The training loss in closed form (PAPER.md, Autoencoder 6, without LPIPS and GAN)."""

import pytest
import torch

from autoencoder import VidTwinPosterior
from autoencoder.losses import VidTwinLoss


def example() -> tuple[torch.Tensor, torch.Tensor, VidTwinPosterior]:
    generator = torch.Generator().manual_seed(0)
    video, reconstruction = (torch.randn(2, 3, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    shapes = (2, 4, 3, 2, 2), (2, 4, 4, 4)
    posterior = VidTwinPosterior(*(torch.randn(shape, generator=generator) for shape in shapes))
    return reconstruction.requires_grad_(), video, posterior


@pytest.mark.parametrize("kl_weight", [0.0, 1e-3, 2.0])
def test_closed_form(kl_weight):
    reconstruction, video, posterior = example()
    criterion = VidTwinLoss(kl_weight)
    criterion.logvar.data.fill_(0.3)
    loss, terms = criterion(reconstruction, video, posterior)

    elements, frames = 2 * 3 * 4 * 8 * 8, 2 * 4
    l1 = (reconstruction - video).abs().sum().item()
    scale = torch.tensor(0.3).exp().item()
    kl = posterior.kl().mean().item()
    nll = (l1 / scale + 0.3 * elements) / frames
    expected = {"loss": nll + kl_weight * kl, "l1": l1 / elements, "nll": nll, "kl": kl, "logvar": 0.3}
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-5), name
        assert not terms[name].requires_grad

    loss.backward()
    assert criterion.logvar.grad.item() == pytest.approx((elements - l1 / scale) / frames, rel=1e-5)
    expected_gradient = (reconstruction - video).sign() / scale / frames
    torch.testing.assert_close(reconstruction.grad, expected_gradient, rtol=1e-5, atol=1e-7)


def test_logvar_learns_the_error():
    """The loss is least where exp(logvar) is the mean absolute error."""
    reconstruction, video, posterior = example()
    criterion = VidTwinLoss()
    optimizer = torch.optim.Adam(criterion.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss, terms = criterion(reconstruction.detach(), video, posterior)
        loss.backward()
        optimizer.step()
    assert criterion.logvar.exp().item() == pytest.approx(terms["l1"].item(), rel=1e-2)


def test_terms_do_not_follow_the_parameter():
    criterion = VidTwinLoss()
    _, terms = criterion(*example())
    criterion.logvar.data.fill_(1.0)
    assert terms["logvar"].item() == 0.0


def test_half_precision_is_summed_in_fp32():
    reconstruction, video, posterior = example()
    loss, _ = VidTwinLoss()(reconstruction.detach().bfloat16(), video.bfloat16(), posterior)
    expected, _ = VidTwinLoss()(reconstruction.detach(), video, posterior)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
