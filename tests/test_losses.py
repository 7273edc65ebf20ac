"""The training loss in closed form and against the reference."""

import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from autoencoder import VidTwinPosterior
from autoencoder.training.discriminator import PatchDiscriminator
from autoencoder.training.losses import VidTwinLoss, adaptive_weight, discriminator_hinge, generator_hinge


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


class Brightness(nn.Module):
    """Distance of two pictures: how much their means differ."""

    def forward(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return (images - others).mean((1, 2, 3)).abs()


def test_lpips_on_a_share_of_the_frames_costs_less_and_means_the_same():
    reconstruction, video, posterior = example()
    counted = []
    network = Brightness().eval()
    network.register_forward_pre_hook(lambda _, images: counted.append(len(images[0])))

    def lpips(share: float, seed: int = 0) -> float:
        torch.manual_seed(seed)
        loss, terms = VidTwinLoss(0.0, 1.0, network, share)(reconstruction, video, posterior)
        rest = (reconstruction - video).abs().sum().item() / 8  # frames
        assert loss.item() == pytest.approx(rest + terms["lpips"].item() * video[0, :, 0].numel(), rel=1e-5)
        return terms["lpips"].item()

    whole = lpips(1.0)
    shares = [lpips(0.25, seed) for seed in range(400)]
    assert counted == [8] + 400 * [2]
    assert lpips(0.25, 3) == shares[3] != lpips(0.25, 4)
    assert sum(shares) / 400 == pytest.approx(whole, rel=0.1)
    assert lpips(0.01) > 0 and counted[-1] == 2, "one frame of each clip at least"


def test_squared_errors_and_a_weight_for_each_latent():
    reconstruction, video, posterior = example()
    criterion = VidTwinLoss(kl_weight=7.0)
    loss, terms = criterion(reconstruction, video, posterior, kl_weights=(0.5, 0.0), squared=True)
    structure, dynamics = posterior.kl_of_latents()
    assert torch.equal(structure + dynamics, posterior.kl()) and (dynamics > 1).all()
    squares = (reconstruction - video).square().sum() / 8  # frames
    assert loss.item() == pytest.approx(squares.item() + 0.5 * structure.mean().item(), rel=1e-5)
    assert terms["kl_structure"].item() == pytest.approx(structure.mean().item(), rel=1e-5)
    assert terms["l1"].item() == pytest.approx((reconstruction - video).abs().mean().item(), rel=1e-5)


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


def fixture_discriminator(shapes: dict[str, list[int]]) -> PatchDiscriminator:
    """The weights that the reference numbers were made with, as their README says to draw them."""
    discriminator = PatchDiscriminator()
    state = discriminator.state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == shapes
    for name, parameter in discriminator.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        value = torch.randn(parameter.shape, generator=generator) * (0.05 if parameter.ndim > 1 else 0.1)
        parameter.data = value + (1 if parameter.ndim == 1 and name.endswith("weight") else 0)
    return discriminator.double()


@pytest.fixture(scope="module")
def reference() -> tuple[dict, dict[str, torch.Tensor], PatchDiscriminator]:
    folder = Path(__file__).parent / "data/reference"
    numbers = json.loads((folder / "loss.json").read_text())
    tensors = {name: tensor.double() for name, tensor in load_file(folder / "loss.safetensors").items()}
    return numbers, tensors, fixture_discriminator(numbers["discriminator_keys"])


def test_generator_role_is_the_references(reference):
    numbers, tensors, discriminator = reference
    expected = numbers["generator_log"]
    last_layer = tensors["last_layer"].clone().requires_grad_()
    reconstruction = torch.einsum("oc,bcthw->bothw", last_layer, tensors["features"])
    torch.testing.assert_close(reconstruction.detach(), tensors["reconstruction"], rtol=1e-5, atol=1e-6)
    criterion = VidTwinLoss(numbers["kl_weight"]).double()
    criterion.logvar.data.fill_(numbers["logvar"])
    posterior = SimpleNamespace(kl=lambda: torch.tensor([numbers["kl"]], dtype=torch.float64))

    loss, terms = criterion(reconstruction, tensors["video"], posterior)
    gan = generator_hinge(discriminator(reconstruction))
    weight = numbers["disc_weight"] * adaptive_weight(loss, gan, last_layer)
    total = loss + weight * gan
    total.backward()
    actual = terms | {"total": total, "gan": gan, "weight": weight}
    names = {"nll": "nll_loss", "l1": "rec_loss", "kl": "kl_loss", "gan": "g_loss", "weight": "d_weight"}
    for ours, theirs in (names | {"total": "total_loss"}).items():
        assert actual[ours].item() == pytest.approx(expected[theirs], rel=1e-6), ours
    gradient, largest = tensors["last_layer_grad"], tensors["last_layer_grad"].abs().max()
    assert (last_layer.grad - gradient).abs().max() < 1e-6 * largest
    assert not weight.requires_grad


def test_discriminator_role_is_the_references(reference):
    numbers, tensors, discriminator = reference
    expected = numbers["discriminator_log"]
    reconstruction = torch.einsum("oc,bcthw->bothw", tensors["last_layer"], tensors["features"])
    real, fake = discriminator(tensors["video"]), discriminator(reconstruction)
    assert discriminator_hinge(real, fake).item() == pytest.approx(numbers["discriminator_total"], rel=1e-6)
    assert real.mean().item() == pytest.approx(expected["logits_real"], rel=1e-6)
    assert fake.mean().item() == pytest.approx(expected["logits_fake"], rel=1e-6)


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 3.0 / (2.0 + 1e-4)), (0.0, 1e4)])
def test_adaptive_weight_in_closed_form(scale, expected):
    last_layer = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    loss, gan = (3 * last_layer).sum(), (-2 * scale * last_layer).sum()
    assert adaptive_weight(loss, gan, last_layer).item() == pytest.approx(expected)
    halved = adaptive_weight(loss, gan, last_layer, average=lambda gradient: gradient / 2)
    assert halved.item() == pytest.approx(min(1e4, 1.5 / (scale + 1e-4)))
    assert last_layer.grad is None


class Distance(nn.Module):
    """In place of LPIPS: the mean square of a frame, times a weight."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert a.ndim == 4 and a.shape[1] == 3
        return self.scale * (a - b).square().flatten(1).mean(1)


def test_lpips_counts_for_every_element_of_its_frame():
    reconstruction, video, posterior = example()
    criterion = VidTwinLoss(0.0, 0.05, Distance().requires_grad_(False).eval())
    criterion.logvar.data.fill_(0.3)
    loss, terms = criterion(reconstruction, video, posterior)
    difference = reconstruction - video
    elements, frames = video.numel(), 2 * 4
    distances = 2 * difference.square().mean((1, 3, 4))  # (B, F)
    l1 = difference.abs().sum()
    error = l1 + 0.05 * distances.sum() * elements / frames
    expected = (error / torch.tensor(0.3).exp() + 0.3 * elements) / frames
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert terms["lpips"].item() == pytest.approx(distances.mean().item())
    assert terms["l1"].item() == pytest.approx((l1 / elements).item())
    loss.backward()
    (gradient,) = torch.autograd.grad(expected, reconstruction)
    torch.testing.assert_close(reconstruction.grad, gradient, rtol=1e-5, atol=1e-8)


def test_lpips_moves_along_but_is_not_part_of_the_module():
    lpips = Distance().requires_grad_(False).eval()
    criterion = VidTwinLoss(lpips_weight=0.05, lpips=lpips)
    assert list(criterion.state_dict()) == [name for name, _ in criterion.named_parameters()] == ["logvar"]
    criterion.train().to(torch.float32)
    assert lpips.scale.dtype == torch.float32
    assert not lpips.training


def test_lpips_must_be_there_and_frozen():
    with pytest.raises(ValueError, match=r"lpips_weight=0\.05"):
        VidTwinLoss(lpips_weight=0.05)
    with pytest.raises(ValueError, match="frozen"):
        VidTwinLoss(lpips_weight=0.05, lpips=Distance().eval())
