"""The objective: targets, draws that depend on one generator alone, masked means, an oracle that loses nothing."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from autoencoder.common.seeding import generators
from generator import VidTwinDiT
from generator.objective import (
    ObjectiveConfig,
    diffusion_loss,
    make_scheduler,
    masked_losses,
    noisy_batch,
)

FLOW_KINDS = ("flow", "flow_sample")
DDPM_KINDS = ("sample", "epsilon", "v_prediction")
KINDS = FLOW_KINDS + DDPM_KINDS
VARIANTS = [(kind, {}) for kind in KINDS] + [(kind, {"independent_times": True}) for kind in KINDS]
VARIANTS += [(kind, {"min_snr_gamma": 5.0}) for kind in DDPM_KINDS]
VARIANTS += [(kind, {"min_snr_gamma": 5.0, "independent_times": True}) for kind in DDPM_KINDS]
FRAME_TIMES = {"independent_times": True, "history_share": 0.5, "frame_share": 0.3}
VARIANTS += [(kind, FRAME_TIMES) for kind in KINDS]
NULL = 3
LABELS = torch.tensor([0, 1, 2, 1])
NUM_STRUCTURE = 2  # of 6 tokens
TIME_ROWS = torch.tensor([0, 0, 1, 2, 1, 2])
ABAR = DDPMScheduler().alphas_cumprod
FIELDS = ("tokens", "timestep", "labels", "target", "weight")


def make_tokens(batch_size: int = 4) -> torch.Tensor:
    return torch.randn(batch_size, 6, 5, generator=torch.Generator().manual_seed(0))


def draw(kind: str, positions, tokens=None, labels=LABELS, others=None, **options):
    tokens = make_tokens() if tokens is None else tokens
    config = ObjectiveConfig(kind, **options)
    draws = generators(7, "noise", positions)
    return noisy_batch(tokens, labels, config, draws, NUM_STRUCTURE, NULL, others, TIME_ROWS)


def draw_many(kind: str, count: int = 2000, **options):
    """Of clean tokens that are 1, so that what is clean is seen."""
    labels = torch.zeros(count, dtype=torch.long)
    return draw(kind, range(count), torch.ones(count, 6, 5), labels, **options)


def per_token(values: torch.Tensor) -> torch.Tensor:
    """(B,), (B, 1), (B, 2), (B, 1 + 2) by `TIME_ROWS` or (B, 6) -> (B, 6, 1)."""
    values = values.reshape(len(values), -1)
    if values.shape[1] in (3, 6):
        return (values[:, TIME_ROWS] if values.shape[1] == 3 else values)[..., None]
    parts = values[:, :1].expand(-1, NUM_STRUCTURE), values[:, -1:].expand(-1, 6 - NUM_STRUCTURE)
    return torch.cat(parts, dim=1)[..., None]


class Oracle:
    """Knows x_0, and what to answer from the noisy tokens and the time."""

    def __init__(self, kind: str, x0: torch.Tensor):
        self.kind, self.x0 = kind, x0

    def __call__(self, tokens, timestep, labels):
        if self.kind == "flow_sample":
            return SimpleNamespace(sample=self.x0)
        if self.kind == "flow":
            return SimpleNamespace(sample=(tokens - self.x0) / (per_token(timestep) / 1000).clamp(min=1e-8))
        abar = ABAR[per_token(timestep).long()]
        noise = (tokens - abar.sqrt() * self.x0) / (1 - abar).sqrt()
        velocity = abar.sqrt() * noise - (1 - abar).sqrt() * self.x0
        return SimpleNamespace(sample={"sample": self.x0, "epsilon": noise, "v_prediction": velocity}[self.kind])


def loss(model, positions=range(4), x0=None, kind="flow", **options):
    x0 = make_tokens() if x0 is None else x0
    keywords = {"mask": torch.ones(6, 5, dtype=torch.bool), "num_structure_tokens": NUM_STRUCTURE, "null_label": NULL}
    keywords["time_rows"] = TIME_ROWS
    config, labels = ObjectiveConfig(kind, **options), torch.zeros(len(x0), dtype=torch.long)
    return diffusion_loss(model, x0, labels, config, generators(0, "noise", positions), **keywords)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_stay_what_they_were(kind):
    """Seeds of published runs mean these times, drops and noise, in this order."""
    x0, batch = make_tokens(), draw(kind, range(4), label_dropout=0.5)
    for index, generator in enumerate(generators(7, "noise", range(4))):
        if kind in FLOW_KINDS:
            time = torch.sigmoid(torch.randn(1, generator=generator))
        else:
            time = torch.randint(1000, (1,), generator=generator)
        dropped = torch.rand(1, generator=generator) < 0.5
        clean, noise = x0[index : index + 1], torch.randn(1, 6, 5, generator=generator)
        scheduler = DDPMScheduler()
        expected = torch.lerp(clean, noise, time) if kind in FLOW_KINDS else scheduler.add_noise(clean, noise, time)
        target = {"flow": noise - clean, "flow_sample": clean, "sample": clean, "epsilon": noise}.get(kind)
        target = scheduler.get_velocity(clean, noise, time) if target is None else target
        assert torch.equal(batch.tokens[index], expected[0]) and torch.equal(batch.target[index], target[0])
        assert batch.timestep[index] == (1000 * time if kind in FLOW_KINDS else time)
        assert batch.labels[index] == (NULL if dropped else LABELS[index])
    assert batch.timestep.dtype == torch.float32 and batch.timestep.shape == (4,)
    if kind != "flow_sample":
        assert torch.equal(batch.weight, torch.ones(4, 1))


@pytest.mark.parametrize("options", [{}, {"independent_times": True}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_target_leads_back_to_the_data(kind, options):
    """By what the schedulers make of it, whatever the time."""
    x0, batch = make_tokens(), draw(kind, range(4), **options)
    if kind == "flow_sample":
        return torch.testing.assert_close(batch.target, x0, rtol=0, atol=0)
    scheduler = make_scheduler(kind)
    if kind == "flow":
        return torch.testing.assert_close(batch.tokens - per_token(batch.timestep) / 1000 * batch.target, x0)
    scheduler.set_timesteps(1000)
    times, noisy, target, clean = (
        values.flatten(0, 1) for values in (per_token(batch.timestep).long(), batch.tokens, batch.target, x0)
    )
    for time, *sample, expected in zip(times, noisy, target, clean, strict=True):
        if options and time == 0:  # given: what the target says of it is not used
            torch.testing.assert_close(sample[0], expected, rtol=0, atol=0)
            continue
        found = scheduler.step(sample[1], time.item(), sample[0]).pred_original_sample
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"independent_times": True, "given_share": 0.0}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_times_follow_their_distribution(kind, options):
    for time in draw_many(kind, logit_mean=0.5, logit_std=2.0, **options).timestep.reshape(2000, -1).unbind(dim=1):
        if kind in FLOW_KINDS:
            logits = torch.logit(time / 1000)
            assert abs(logits.mean() - 0.5) < 0.2 and abs(logits.std() - 2.0) < 0.2
        else:
            assert torch.equal(time.long().float(), time)
            assert time.min() >= 0 and time.max() <= 999 and time.max() > 950 and time.min() < 50
            assert abs(time.mean() - 499.5) < 25


@pytest.mark.parametrize("order", [[2, 0, 3], [1]], ids=str)
@pytest.mark.parametrize("kind, options", VARIANTS, ids=str)
def test_draws_depend_on_the_sample_alone(kind, options, order):
    whole = draw(kind, range(4), label_dropout=0.5, **options)
    part = draw(kind, order, make_tokens()[order], LABELS[order], label_dropout=0.5, **options)
    for name in FIELDS:
        assert torch.equal(getattr(part, name), getattr(whole, name)[order]), name
    torch.manual_seed(1)
    again = draw(kind, range(4), label_dropout=0.5, **options)
    assert torch.equal(again.tokens, whole.tokens)
    other = draw(kind, range(4, 8), label_dropout=0.5, **options)
    assert not torch.equal(other.tokens, whole.tokens) and not torch.equal(other.timestep, whole.timestep)


def test_share_of_dropped_labels():
    tokens, labels = torch.zeros(2000, 6, 5), torch.arange(2000) % NULL
    dropped = draw("flow", range(2000), tokens, labels, label_dropout=0.2).labels
    assert abs((dropped == NULL).float().mean() - 0.2) < 0.03
    assert torch.equal(dropped[dropped != NULL], labels[dropped != NULL])
    assert torch.equal(draw("flow", range(2000), tokens, labels, label_dropout=0.0).labels, labels)
    assert (draw("flow", range(2000), tokens, labels, label_dropout=1.0).labels == NULL).all()


@pytest.mark.parametrize("kind", KINDS)
def test_three_sorts_of_samples_with_independent_times(kind):
    batch = draw_many(kind, independent_times=True, joint_share=0.3, given_share=0.5)
    given = batch.weight == 0  # (B, 2)
    assert batch.timestep.shape == given.shape == (2000, 2)
    assert not given.all(dim=1).any()
    for latent in range(2):
        assert abs(given[:, latent].float().mean() - 0.25) < 0.04
    joint = batch.timestep[:, 0] == batch.timestep[:, 1]
    assert abs(joint.float().mean() - 0.3) < 0.04 and not (joint & given.any(dim=1)).any()

    assert not batch.timestep[given].any()
    others = batch.timestep[~given]  # the times of the others are ordinary
    assert others.max() > 900 and abs(others.mean() - 500) < 30
    clean = (batch.tokens == 1).all(dim=2)  # (B, 6)
    assert torch.equal(clean, per_token(given).squeeze(2))
    if kind != "flow_sample":
        assert torch.equal(batch.weight[~given], torch.ones_like(batch.weight[~given]))

    independent = ~joint & ~given.any(dim=1)
    assert abs(torch.corrcoef(batch.timestep[independent].T)[0, 1]) < 0.15


def test_shares_of_zero_and_one():
    times = draw_many("flow", 50, independent_times=True, joint_share=1.0, given_share=0.0).timestep
    assert torch.equal(times[:, 0], times[:, 1]) and times.all()
    weight = draw_many("flow", 50, independent_times=True, joint_share=0.0, given_share=1.0).weight
    assert torch.equal(weight.sum(dim=1), torch.ones(50))
    times = draw_many("flow", 50, independent_times=True, joint_share=0.0, given_share=0.0).timestep
    assert (times[:, 0] != times[:, 1]).all() and times.all()


@pytest.mark.parametrize("kind", ["flow", "flow_sample", "v_prediction"])
def test_a_history_is_clean_at_time_zero_and_as_long_as_drawn(kind):
    rows = torch.tensor([0, 0, *range(1, 5)])  # four patches of frames
    options = {"independent_times": True, "history_share": 0.6, "joint_share": 0.3, "given_share": 0.4}
    config, count = ObjectiveConfig(kind, **options), 3000
    tokens, labels = torch.ones(count, 6, 5), torch.zeros(count, dtype=torch.long)
    batch = noisy_batch(tokens, labels, config, generators(7, "n", range(count)), NUM_STRUCTURE, NULL, time_rows=rows)
    assert batch.timestep.shape == (count, 5) and batch.weight.shape == (count, 6)
    given = batch.weight[:, [0, 2, 3, 4, 5]] == 0  # structure, and each patch
    assert not batch.timestep[given].any()
    assert torch.equal((batch.tokens == 1).all(dim=2), given[:, rows]) and torch.equal(
        given[:, rows], batch.weight == 0
    )
    structure, frames = given[:, 0], given[:, 1:]
    assert torch.equal(frames.cummin(dim=1).values, frames), "the first ones"
    lengths = frames.sum(dim=1)
    share = torch.bincount(lengths, minlength=5) / count
    expected = torch.tensor([0.4 * 0.8, *[0.6 * 0.8 / 3] * 3, 0.2])
    assert (share - expected).abs().max() < 0.03
    assert structure.float().mean() == pytest.approx(0.2, abs=0.03)
    assert (structure & (lengths > 0)).float().mean() == pytest.approx(0.2 * 0.6, abs=0.03), "both may be given"
    rest = batch.timestep[:, 1:].max(dim=1).values
    assert torch.equal(batch.timestep[:, 1:], torch.where(frames, 0, rest[:, None])), "all others at one time"


def test_frames_may_have_a_noise_level_each():
    times = draw_many("flow", 500, **{**FRAME_TIMES, "history_share": 0.0, "frame_share": 0.5}).timestep
    apart = times[:, 1] != times[:, 2]
    assert apart.float().mean() == pytest.approx(0.5 * (1 - 0.125), abs=0.07)
    assert times[apart][:, 1:].all()


@pytest.mark.parametrize("kind, options", VARIANTS, ids=str)
def test_given_latents_have_no_gradient(kind, options):
    prediction = torch.zeros(20, 6, 5, requires_grad=True)
    batch = draw_many(kind, 20, **options)
    masked_losses(
        prediction, batch.target + 1, torch.ones(6, 5, dtype=torch.bool), NUM_STRUCTURE, batch.weight
    ).total.backward()
    with_gradient = prediction.grad.any(dim=2)  # (B, 6)
    assert torch.equal(with_gradient, per_token(batch.weight).squeeze(2) > 0)
    assert with_gradient.all() != bool(options.get("independent_times"))


@pytest.mark.parametrize("kind, options", VARIANTS, ids=str)
def test_oracle_loses_nothing_and_a_stranger_does(kind, options):
    x0 = make_tokens()
    assert loss(Oracle(kind, x0), kind=kind, **options).total < 1e-6
    assert loss(Oracle(kind, x0 + 1), kind=kind, **options).total > 1e-3


def test_x0_of_the_flow_costs_what_its_velocity_costs():
    """Down to the noise level 0.05, from where on the error of x_0 weighs no more."""
    batch = draw_many("flow_sample", 50, logit_mean=-2.0)
    sigma = batch.timestep / 1000
    torch.testing.assert_close(batch.weight, 1 / sigma.clamp(min=0.05).square()[:, None])
    assert sigma.min() < 0.05 < sigma.max()

    x0, wrong = make_tokens(), make_tokens() + 1
    options = {"logit_mean": 1.0, "logit_std": 0.5}
    of_x0, of_velocity = (loss(Oracle(kind, wrong), x0=x0, kind=kind, **options) for kind in FLOW_KINDS)
    for name in ("total", "structure", "dynamics"):
        torch.testing.assert_close(getattr(of_x0, name), getattr(of_velocity, name))


CONTRASTED = ("flow", "flow_sample", "sample", "v_prediction")


@pytest.mark.parametrize("kind", CONTRASTED)
def test_contrast_has_the_gradient_of_the_two_squared_errors(kind):
    """Of the velocity, or what a kind predicts, to that of the sample itself and to that of another one."""
    x0, others = make_tokens(), make_tokens().flip(0) + 0.5
    plain = draw(kind, range(4), logit_mean=1.0)
    batch = draw(kind, range(4), logit_mean=1.0, contrastive_weight=0.1, others=others)
    for name in ("tokens", "timestep", "labels"):
        assert torch.equal(getattr(batch, name), getattr(plain, name)), name
    sources = generators(7, "noise", range(4))
    for source in sources:  # the time's draw, the drop's and the noise are done
        (torch.randint(1000, (1,), generator=source) if kind in DDPM_KINDS else torch.randn(1, generator=source))
        torch.rand(1, generator=source), torch.randn(1, 6, 5, generator=source)
    other_noise = torch.cat([torch.randn(1, 6, 5, generator=source) for source in sources])
    time = per_token(batch.timestep)
    right, wrong = plain.target, {"flow": other_noise - others, "sample": others}.get(kind)
    prediction = torch.randn(4, 6, 5, requires_grad=True)
    answer = prediction
    if kind == "flow_sample":
        answer, right = ((batch.tokens - x) / (time / 1000) for x in (prediction, x0))
        wrong = other_noise - others
    elif kind == "v_prediction":
        wrong = DDPMScheduler().get_velocity(others, other_noise, batch.timestep.long())
    ((answer - right).square() - 0.1 * (answer - wrong).square()).mean().backward()
    expected, prediction.grad = prediction.grad, None
    found = masked_losses(
        prediction, batch.target, torch.ones(6, 5, dtype=torch.bool), NUM_STRUCTURE, batch.weight
    ).total
    found.backward()
    assert found > 0
    torch.testing.assert_close(prediction.grad, expected)


def test_contrast_needs_another_clip_of_each():
    for others in (None, make_tokens(3)):
        with pytest.raises(ValueError, match="contrastive_weight=0.05 needs another clip for each"):
            draw("flow", range(4), contrastive_weight=0.05, others=others)


@pytest.mark.parametrize("gamma", [0.5, 5.0])
@pytest.mark.parametrize("kind", DDPM_KINDS)
def test_min_snr_weights_by_hand(kind, gamma):
    batch = draw_many(kind, 50, min_snr_gamma=gamma)
    for step, weight in zip(batch.timestep, batch.weight, strict=True):
        snr = ABAR[int(step)].item() / (1 - ABAR[int(step)].item())
        clipped = min(snr, gamma)
        expected = {"sample": clipped, "epsilon": clipped / snr, "v_prediction": clipped / (snr + 1)}[kind]
        assert weight.item() == pytest.approx(expected, rel=1e-3)
    assert len(batch.weight.unique()) > 5


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("kind", DDPM_KINDS)
def test_min_snr_weighs_the_error_of_the_data_alike_in_every_kind(kind, independent):
    """An answer whose x_0 is wrong by 1 everywhere costs min(SNR, gamma), whatever it is an answer in."""
    options = {"min_snr_gamma": 2.0, "independent_times": independent}
    seen = noisy_batch(
        make_tokens(),
        LABELS,
        ObjectiveConfig("sample", **options),
        generators(0, "noise", range(4)),
        NUM_STRUCTURE,
        NULL,
    )
    abar = ABAR[per_token(seen.timestep).long()].double()
    costs = (abar / (1 - abar)).clamp(max=2.0) * (per_token(seen.weight) > 0)
    losses = loss(Oracle(kind, make_tokens() + 1), kind=kind, **options)
    assert losses.total.item() == pytest.approx(costs.mean().item(), rel=1e-2)
    assert losses.structure.item() == pytest.approx(costs[:, :NUM_STRUCTURE].mean().item(), rel=1e-2)
    assert losses.dynamics.item() == pytest.approx(costs[:, NUM_STRUCTURE:].mean().item(), rel=1e-2)


@pytest.mark.parametrize("kind, options", VARIANTS, ids=str)
def test_parts_of_a_batch_add_up(kind, options):
    """As accumulation and data parallelism need it, however many latents are given in each part."""

    class Zero:
        def __call__(self, tokens, timestep, labels):
            return SimpleNamespace(sample=torch.zeros_like(tokens))

    x0 = torch.randn(12, 6, 5, generator=torch.Generator().manual_seed(3))
    whole = loss(Zero(), range(12), x0, kind, **options)
    parts = [loss(Zero(), range(i, i + 3), x0[i : i + 3], kind, **options) for i in range(0, 12, 3)]
    for name in ("total", "structure", "dynamics"):
        mean = sum(getattr(part, name) for part in parts) / 4
        torch.testing.assert_close(mean, getattr(whole, name))
    torch.testing.assert_close(whole.total, (2 * whole.structure + 4 * whole.dynamics) / 6)


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


def test_weights_of_the_two_latents():
    prediction = torch.ones(2, 3, 4)
    weight = torch.tensor([[1.0, 0.5], [0.0, 2.0]])
    losses = masked_losses(prediction, torch.zeros(2, 3, 4), torch.ones(3, 4, dtype=torch.bool), 1, weight)
    assert losses.structure.item() == pytest.approx(0.5)
    assert losses.dynamics.item() == pytest.approx(1.25)
    assert losses.total.item() == pytest.approx((0.5 + 2 * 1.25) / 3)


@pytest.mark.parametrize("kind, options", VARIANTS, ids=str)
def test_padding_changes_neither_loss_nor_gradient(kind, options):
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
            ObjectiveConfig(kind, **options),
            generators(0, "noise", range(4)),
            mask=model.mask,
            num_structure_tokens=layout.num_structure_tokens,
            null_label=NULL,
            time_rows=layout.time_rows,
        )
        losses.total.backward()
        results.append([losses.total, losses.structure, losses.dynamics, *(p.grad for p in model.parameters())])
    assert results[0][0] > 0
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_schedulers_fit_the_objective():
    flow, sample = make_scheduler("flow"), make_scheduler("sample")
    assert isinstance(flow, FlowMatchEulerDiscreteScheduler) and flow.config.shift == 1.0
    assert type(make_scheduler("flow_sample")) is type(flow) and make_scheduler("flow_sample").config == flow.config
    assert isinstance(sample, DDIMScheduler) and sample.config.prediction_type == "sample"
    for kind in DDPM_KINDS:
        expected = {**sample.config, "prediction_type": kind}
        assert type(make_scheduler(kind)) is DDIMScheduler and {**make_scheduler(kind).config} == expected
    assert not sample.config.clip_sample and sample.config.timestep_spacing == "trailing"
    assert torch.equal(sample.alphas_cumprod, DDPMScheduler().alphas_cumprod)
    x0, noise, sigma = make_tokens(), make_tokens().flip(0), flow.sigmas[[100, 500, 700, 999]]
    expected = flow.scale_noise(x0, 1000 * sigma, noise)
    torch.testing.assert_close(torch.lerp(x0, noise, sigma[:, None, None]), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "edm"}, "kind must be one of flow, flow_sample, sample, epsilon, v_prediction, got 'edm'"),
        ({"label_dropout": 1.5}, r"label_dropout must be in \[0, 1\], got 1.5"),
        ({"logit_std": 0.0}, "logit_std must be positive"),
        ({"min_snr_gamma": 5.0}, "min_snr_gamma=5.0 is for the DDPM kinds: leave it out with kind='flow'"),
        ({"kind": "flow_sample", "min_snr_gamma": 5.0}, "leave it out with kind='flow_sample'"),
        ({"kind": "sample", "min_snr_gamma": 0.0}, "min_snr_gamma must be positive, got 0.0"),
        ({"contrastive_weight": 1.0}, r"contrastive_weight must be in \[0, 1\), got 1.0"),
        ({"contrastive_weight": -0.1}, r"contrastive_weight must be in \[0, 1\), got -0.1"),
        ({"kind": "epsilon", "contrastive_weight": 0.05}, "noise says nothing: leave it out with kind='epsilon'"),
        ({"joint_share": 0.8, "given_share": 0.3}, r"add up to at most 1, got \(0.8, 0.3\)"),
        ({"history_share": 0.5}, r"got \(0.5, 0.0\), .* give --objective.independent_times true, too"),
        ({"history_share": 0.8, "frame_share": 0.3}, r"frame_share must be .* add up to at most 1, got \(0.8, 0.3\)"),
        ({"given_share": -0.1}, r"must be at least 0 and add up to at most 1, got \(0.5, -0.1\)"),
    ],
)
def test_wrong_configs_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(**options)


def test_wrong_batches_are_named():
    config = ObjectiveConfig("flow", **FRAME_TIMES)
    arguments = (make_tokens(), LABELS, config, generators(7, "noise", range(4)), NUM_STRUCTURE, NULL)
    with pytest.raises(ValueError, match="need time_rows, those of the model's layout"):
        noisy_batch(*arguments)
    with pytest.raises(ValueError, match="history_share=0.5 leaves no frame to predict .* model.dynamics_patch_size"):
        noisy_batch(*arguments, time_rows=TIME_ROWS.clamp(max=1))
    with pytest.raises(ValueError, match="prediction_type must be one of flow, flow_sample, sample, .*, got 'v'"):
        make_scheduler("v")
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), got \[0, 1, 3, 1\]"):
        draw("flow", range(4), labels=torch.tensor([0, 1, 3, 1]))
    with pytest.raises(ValueError, match="4 samples need as many labels and generators, got 4, 3"):
        draw("flow", range(3))
