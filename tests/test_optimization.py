"""Optimiser and schedule."""

import pytest
import torch

from autoencoder.common import optimization
from autoencoder.common.config import OptimizerConfig
from autoencoder.common.optimization import NEWTON_SCHULZ, orthogonalize


def rates(config: OptimizerConfig, max_steps: int = 10) -> list[float]:
    """The learning rate of every step."""
    optimizer, schedule = config.build(torch.nn.Linear(1, 1), max_steps)
    seen = []
    for _ in range(max_steps + 1):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return seen


def test_cosine_after_warm_up():
    seen = rates(OptimizerConfig(learning_rate=2.0, warmup_steps=4))
    assert seen[:5] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    assert seen[7] == pytest.approx(1.0) and seen[10] == pytest.approx(0.0)
    assert all(later < earlier for earlier, later in zip(seen[4:], seen[5:], strict=False))


def test_constant_after_warm_up():
    seen = rates(OptimizerConfig(learning_rate=2.0, warmup_steps=2, schedule="constant"))
    assert seen == pytest.approx([0.0, 1.0] + [2.0] * 9)
    assert rates(OptimizerConfig(learning_rate=2.0, schedule="constant")) == pytest.approx([2.0] * 11)


@pytest.mark.parametrize("name, kind", [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_the_optimiser_is_the_one_named(name, kind):
    config = OptimizerConfig(name=name, learning_rate=0.1, betas=(0.5, 0.9), weight_decay=0.2, schedule="constant")
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer, _ = config.build(torch.nn.ParameterList([parameter]), 10)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (0.1, (0.5, 0.9), 0.2)
    parameter.grad = torch.zeros(1)
    optimizer.step()
    # AdamW shrinks the weight by lr x decay; for Adam the decay is a gradient, which it scales to one.
    assert parameter.item() == pytest.approx(0.98 if name == "adamw" else 0.9, abs=1e-5)


def test_muon_moves_matrices_along_every_direction_alike_and_leaves_the_rest_to_adam():
    layers = torch.nn.ModuleDict({"linear": torch.nn.Linear(16, 16), "table": torch.nn.Embedding(16, 16)})
    config = OptimizerConfig("muon", learning_rate=0.1, fallback_lr_scale=0.1, weight_decay=0.0, schedule="constant")
    optimizer, _ = config.build(layers, 10)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 3
    before = {name: value.detach().clone() for name, value in layers.named_parameters()}
    for parameter in layers.parameters():
        parameter.grad = torch.ones_like(parameter)
    layers["linear"].weight.grad = torch.diag(torch.tensor([100.0] + 15 * [1.0]))
    optimizer.step()
    moved = {name: before[name] - value.detach() for name, value in layers.named_parameters()}
    strengths = torch.linalg.svdvals(moved["linear.weight"])
    assert strengths[-1] > strengths[0] / 4  # the gradient's own ratio is 100
    assert moved["table.weight"].abs().max() < 0.03 and moved["linear.bias"].abs().max() < 0.03  # about 0.1 x 0.1


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (3, 8, 24), (8, 12), (1, 5), (8, 8)])
@pytest.mark.parametrize("steps, scale_eps", [(1, False), (3, True), (7, False)])
def test_orthogonalization_equals_timms(shape, steps, scale_eps):
    generator = torch.Generator().manual_seed(0)
    update = torch.randn(shape, generator=generator)
    update[..., 0, :] *= 1e-3  # a direction that hardly any gradient has
    coefficients = [(4.0848, -6.8946, 2.927), (3.9505, -6.3029, 2.6377), (3.4445, -4.775, 2.0315)]
    expected = NEWTON_SCHULZ(update.double(), steps, coefficients, 1e-7, 1.01, torch.float64, scale_eps)
    actual = orthogonalize(update, steps, coefficients, 1e-7, 1.01, scale_eps)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-3)
    nothing = orthogonalize(torch.zeros(shape), steps, coefficients, 1e-7)
    assert not nothing.any(), "a weight without a gradient must not move"


@pytest.mark.parametrize("steps", [5, 7, 10, 20])
def test_orthogonalization_of_a_single_direction_stays_bounded(steps):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        update = torch.randn(16, 1, generator=generator) @ torch.randn(1, 48, generator=generator)
        found = orthogonalize(update, steps, [(3.4445, -4.775, 2.0315)], 1e-7)
        assert torch.linalg.matrix_norm(found, 2) < 1.5


@pytest.mark.parametrize("device, calls", [("cpu", 0), ("meta", 1)])
def test_gram_matrices_are_for_the_cpu(device, calls, monkeypatch):
    """A GPU may multiply in TF32, and meta stands for it here."""
    seen = []
    monkeypatch.setattr(optimization, "NEWTON_SCHULZ", lambda update, *settings: seen.append(settings) or update)
    orthogonalize(torch.ones(2, 8, device=device), 5, [(3.4445, -4.775, 2.0315)], 1e-7)
    assert len(seen) == calls and all(torch.float32 in settings for settings in seen)


def test_a_step_of_muon_inside_of_autocast_is_that_outside():
    """Lightning steps there; in bf16 the Gram matrix of a gradient with one strong direction makes weights explode."""
    ends = []
    for autocasts in (False, True):
        generator = torch.Generator().manual_seed(0)
        layer = torch.nn.Linear(16, 48, bias=False)
        torch.nn.init.zeros_(layer.weight)
        strong = torch.randn(48, 1, generator=generator) @ torch.randn(1, 16, generator=generator)
        layer.weight.grad = strong + 0.01 * torch.randn(48, 16, generator=generator)
        optimizer, _ = OptimizerConfig("muon", learning_rate=0.1, warmup_steps=0).build(layer, 10, "fp32")
        with torch.autocast("cpu", torch.bfloat16, enabled=autocasts):
            optimizer.step()
        ends.append(layer.weight.detach())
    assert torch.equal(*ends) and 0 < ends[0].abs().max() < 0.1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
        ({"betas": (0.9, 1.0)}, r"betas must lie in \[0, 1\), got \(0.9, 1.0\)"),
        ({"weight_decay": -1.0}, "at least 0, got -1.0"),
        ({"warmup_steps": -1}, "at least 0, got .* and -1"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"newton_schulz_steps": 0}, "newton_schulz_steps must be at least 1, got 0"),
        ({"fallback_lr_scale": 0.0}, "fallback_lr_scale must be positive, got 0.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive, got 0.0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**options)
