"""The objective: targets, draws that depend on one generator alone, masked means, an oracle that loses nothing."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from autoencoder.seeding import generators
from generator import VidTwinDiT
from generator.objective import (
    ObjectiveConfig,
    diffusion_loss,
    make_scheduler,
    masked_losses,
    noisy_batch,
)

KINDS = ("flow", "sample")
NULL = 3
LABELS = torch.tensor([0, 1, 2, 1])


def make_tokens(batch_size: int = 4) -> torch.Tensor:
    return torch.randn(batch_size, 6, 5, generator=torch.Generator().manual_seed(0))


def draw(kind: str, positions, tokens=None, labels=LABELS, **options):
    tokens = make_tokens() if tokens is None else tokens
    return noisy_batch(tokens, labels, ObjectiveConfig(kind, **options), generators(7, "noise", positions), NULL)


def test_flow_goes_straight_from_data_to_noise():
    x0 = make_tokens()
    batch = draw("flow", range(4))
    sigma = (batch.timestep / 1000)[:, None, None]
    assert ((sigma > 0) & (sigma < 1)).all()
    torch.testing.assert_close(batch.tokens - sigma * batch.target, x0)
    noise = batch.target + x0
    assert abs(noise.mean()) < 0.3 and abs(noise.std() - 1) < 0.3


def test_sample_noises_as_ddpm_does():
    x0 = make_tokens()
    batch = draw("sample", range(4))
    assert torch.equal(batch.target, x0)
    step = batch.timestep.long()
    assert torch.equal(step.float(), batch.timestep)
    alpha = DDPMScheduler().alphas_cumprod[step][:, None, None]
    noise = (batch.tokens - alpha.sqrt() * x0) / (1 - alpha).sqrt()
    assert abs(noise.mean()) < 0.3 and abs(noise.std() - 1) < 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_times_follow_their_distribution(kind):
    tokens, labels = torch.zeros(2000, 1, 1), torch.zeros(2000, dtype=torch.long)
    time = draw(kind, range(2000), tokens, labels, logit_mean=0.5, logit_std=2.0).timestep
    if kind == "flow":
        logits = torch.logit(time / 1000)
        assert abs(logits.mean() - 0.5) < 0.2 and abs(logits.std() - 2.0) < 0.2
    else:
        assert time.min() >= 0 and time.max() <= 999 and time.max() > 950 and time.min() < 50
        assert abs(time.mean() - 499.5) < 25


@pytest.mark.parametrize("order", [[2, 0, 3], [1]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_draws_depend_on_the_sample_alone(kind, order):
    whole = draw(kind, range(4), label_dropout=0.5)
    part = draw(kind, order, make_tokens()[order], LABELS[order], label_dropout=0.5)
    for name in ("tokens", "timestep", "labels", "target"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[order]), name
    torch.manual_seed(1)
    again = draw(kind, range(4), label_dropout=0.5)
    assert torch.equal(again.tokens, whole.tokens)
    other = draw(kind, range(4, 8), label_dropout=0.5)
    assert not torch.equal(other.tokens, whole.tokens) and not torch.equal(other.timestep, whole.timestep)


def test_share_of_dropped_labels():
    tokens, labels = torch.zeros(2000, 1, 1), torch.arange(2000) % NULL
    dropped = draw("flow", range(2000), tokens, labels, label_dropout=0.2).labels
    assert abs((dropped == NULL).float().mean() - 0.2) < 0.03
    assert torch.equal(dropped[dropped != NULL], labels[dropped != NULL])
    assert torch.equal(draw("flow", range(2000), tokens, labels, label_dropout=0.0).labels, labels)
    assert (draw("flow", range(2000), tokens, labels, label_dropout=1.0).labels == NULL).all()


class Oracle:
    """Knows x_0, and what to answer from the noisy tokens and the time."""

    def __init__(self, kind: str, x0: torch.Tensor):
        self.kind, self.x0 = kind, x0

    def __call__(self, tokens, timestep, labels):
        if self.kind == "sample":
            return SimpleNamespace(sample=self.x0)
        return SimpleNamespace(sample=(tokens - self.x0) / (timestep / 1000)[:, None, None])


@pytest.mark.parametrize("kind", KINDS)
def test_oracle_loses_nothing_and_a_stranger_does(kind):
    x0, mask = make_tokens(), torch.ones(6, 5, dtype=torch.bool)

    def loss(model):
        config = ObjectiveConfig(kind)
        options = {"mask": mask, "num_structure_tokens": 2, "null_label": NULL}
        return diffusion_loss(model, x0, LABELS, config, generators(0, "noise", range(4)), **options)

    assert loss(Oracle(kind, x0)).total < 1e-8
    assert loss(Oracle(kind, x0 + 1)).total > 0.5


def test_means_per_latent_and_over_all_numbers():
    target = torch.zeros(2, 3, 4)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
    prediction = torch.ones(2, 3, 4)
    prediction[:, 1:] = 2.0
    prediction[1] *= 3
    prediction[:, ~mask] = torch.nan
    prediction.requires_grad_()
    losses = masked_losses(prediction, target, mask, num_structure_tokens=1)
    assert losses.structure.item() == pytest.approx((1 + 9) / 2)
    assert losses.dynamics.item() == pytest.approx((4 + 36) / 2)
    assert losses.total.item() == pytest.approx((2 * 5 + 7 * 20) / 9)
    losses.total.backward()
    assert prediction.grad.isfinite().all() and not prediction.grad[:, ~mask].any()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_neither_loss_nor_gradient(kind):
    torch.manual_seed(0)
    model = VidTwinDiT(
        structure_shape=(2, 3, 2, 2),
        dynamics_shape=(3, 3, 4),
        dynamics_axes=(2, 2),
        structure_patch_size=(2, 1, 1),
        dynamics_patch_size=(2, 2),
        hidden_size=16,
        num_layers=1,
        num_attention_heads=2,
        num_classes=NULL,
        prediction_type=kind,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    layout = model.layout
    tokens = torch.randn(4, *layout.mask.shape)
    results = []
    for padding in (0.0, 100.0, torch.nan):
        model.zero_grad()
        losses = diffusion_loss(
            model,
            tokens.masked_fill(~layout.mask, padding),
            LABELS,
            ObjectiveConfig(kind),
            generators(0, "noise", range(4)),
            mask=model.mask,
            num_structure_tokens=layout.num_structure_tokens,
            null_label=NULL,
        )
        losses.total.backward()
        results.append([losses.total, losses.structure, losses.dynamics, *(p.grad for p in model.parameters())])
    assert results[0][0] > 0
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_schedulers_fit_the_objective():
    flow, sample = make_scheduler("flow"), make_scheduler("sample")
    assert isinstance(flow, FlowMatchEulerDiscreteScheduler) and flow.config.shift == 1.0
    assert isinstance(sample, DDIMScheduler) and sample.config.prediction_type == "sample"
    assert not sample.config.clip_sample and sample.config.timestep_spacing == "trailing"
    assert torch.equal(sample.alphas_cumprod, DDPMScheduler().alphas_cumprod)
    x0, noise, sigma = make_tokens(), make_tokens().flip(0), flow.sigmas[[100, 500, 700, 999]]
    expected = flow.scale_noise(x0, 1000 * sigma, noise)
    torch.testing.assert_close(torch.lerp(x0, noise, sigma[:, None, None]), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "edm"}, "kind must be one of flow, sample, got 'edm'"),
        ({"label_dropout": 1.5}, r"label_dropout must be in \[0, 1\], got 1.5"),
        ({"logit_std": 0.0}, "logit_std must be positive"),
    ],
)
def test_wrong_configs_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(**options)


def test_wrong_batches_are_named():
    with pytest.raises(ValueError, match="prediction_type must be one of flow, sample, got 'v'"):
        make_scheduler("v")
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), got \[0, 1, 3, 1\]"):
        draw("flow", range(4), labels=torch.tensor([0, 1, 3, 1]))
    with pytest.raises(ValueError, match="4 samples need as many labels and generators, got 4, 3"):
        draw("flow", range(3))
