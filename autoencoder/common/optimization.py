"""Optimiser and learning-rate schedule of both stages, built from their config."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import timm.optim
import torch
from diffusers.optimization import get_scheduler
from timm.optim import muon as timm_muon
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from autoencoder.common.config import OptimizerConfig, Precision
from autoencoder.common.precision import resolve_precision

MATRIX_LAYERS = (nn.Linear, nn.Conv2d)
MOST_GRAM_STEPS = 7  # rounding errors of a Gram matrix grow by a factor of about 12 in each; ten give no finite numbers
NEWTON_SCHULZ = timm_muon.zeropower_via_newtonschulz  # by default in bf16


def orthogonalize(
    update: torch.Tensor,
    steps: int,
    coefficients: Sequence[tuple[float, float, float]],
    eps: float,
    safety_factor: float = 1.0,
    scale_eps: bool = False,
) -> torch.Tensor:
    """timm's `zeropower_via_newtonschulz` in fp32, with the iteration on the Gram matrix where that takes fewer FLOPs.

    That is on the CPU, for matrices at least twice as long as wide, and up to `MOST_GRAM_STEPS` steps.
    Each iterate X_k of a wide X is P_k X with P_k a polynomial of the Gram matrix G = X X^T, so that only these square
    matrices need to be iterated, and X is multiplied twice in all instead of twice a step. Neither bf16 nor
    TF32, in which GPUs multiply fp32 matrices where it is allowed, could hold G.

    Args:
        update: (m, n) or (batch, m, n).
        steps, coefficients, eps, safety_factor, scale_eps: as timm takes them.
    """
    short, long = sorted(update.shape[-2:])
    if long < 2 * short or steps > MOST_GRAM_STEPS or update.device.type != "cpu":
        return NEWTON_SCHULZ(update, steps, coefficients, eps, safety_factor, torch.float32, scale_eps)
    is_tall = update.size(-2) > update.size(-1)
    x = (update.mT if is_tall else update).float()
    norm = x.norm(dim=(-2, -1), keepdim=True) * safety_factor
    damping = timm_muon.scale_eps_for_ns(eps, update.shape) if scale_eps else eps
    x = x / (norm + damping if scale_eps else norm.clamp(min=damping))
    gram, identity = x @ x.mT, torch.eye(short, device=x.device)  # (..., m, m)
    product = identity
    for a, b, c in [*coefficients[:steps], *[coefficients[-1]] * (steps - len(coefficients))]:
        factor = a * identity + b * gram + c * (gram @ gram)
        product, gram = factor @ product, factor @ gram @ factor
    x = product @ x
    return x.mT if is_tall else x


@contextmanager
def _orthogonalizing_by(function: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Make timm's Muon orthogonalise by `function` inside the block; its step has no argument for that."""
    timm_muon.zeropower_via_newtonschulz = function
    try:
        yield
    finally:
        timm_muon.zeropower_via_newtonschulz = NEWTON_SCHULZ


class Muon(timm.optim.Muon):
    """timm's Muon, which orthogonalises in bf16 only in a bf16 run on a device that multiplies bf16, else in fp32.

    Args:
        params: as all optimisers take them.
        precision: the run's precision.
        options: those of timm's Muon.
    """

    def __init__(self, params, precision: Precision = "auto", **options):
        super().__init__(params, **options)
        self.precision = precision
        self.found_inf: torch.Tensor | None = None

    @torch.no_grad()
    def step(self, closure=None):
        """Update all parameters.

        If the tensor in `found_inf`, an attribute that torch's fused optimisers also have, holds 1, all gradients count
        as zero: weights stay finite, and move by their momentum at most. The host does not wait for the answer.
        """
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        if self.found_inf is not None:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(self.found_inf > 0, 0.0)
        device = parameters[0].device
        is_bf16 = self.precision != "fp32" and resolve_precision("auto", device) == "bf16"
        # Lightning calls this inside of autocast, whose bf16 cannot hold the Gram matrices: weights would explode.
        exact = torch.autocast(device.type, enabled=False)
        with _orthogonalizing_by(NEWTON_SCHULZ if is_bf16 else orthogonalize), exact:
            return super().step(closure)


def make_optimizer(
    config: OptimizerConfig, module: nn.Module, max_steps: int, precision: Precision = "auto"
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Build the optimiser of a module's parameters, and a schedule to be stepped once per optimiser step.

    Args:
        config: config of the optimiser and its schedule.
        module: its parameters are optimised, but for frozen ones.
        max_steps: length of the schedule.
        precision: the run's precision, which Muon follows.
    """
    optimizer = _optimizer(config, module, precision)
    name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    return optimizer, get_scheduler(name, optimizer, num_warmup_steps=config.warmup_steps, num_training_steps=max_steps)


def _optimizer(config: OptimizerConfig, module: nn.Module, precision: Precision) -> torch.optim.Optimizer:
    common = {"lr": config.learning_rate, "betas": config.betas, "weight_decay": config.weight_decay}
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if config.name in ("adamw", "adam"):
        optimizer = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
        # accelerate moves a model to the GPU only when its optimiser is there.
        on_cuda = torch.cuda.is_available() or next(module.parameters()).is_cuda
        return optimizer(parameters, **common, fused=True if on_cuda else None)
    matrices = [layer.weight for layer in module.modules() if isinstance(layer, MATRIX_LAYERS)]
    matrices = [weight for weight in matrices if weight.requires_grad]
    taken = {id(weight) for weight in matrices}
    others = [parameter for parameter in parameters if id(parameter) not in taken]
    groups = [{"params": matrices, "use_muon": True}, {"params": others, "use_fallback": True}]
    groups = [group for group in groups if group["params"]]
    return Muon(
        groups,
        precision,
        **common,
        momentum=config.momentum,
        nesterov=True,
        ns_steps=config.newton_schulz_steps,
        fallback_lr_scale=config.fallback_lr_scale,
    )
