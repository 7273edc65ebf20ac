"""Optimiser and learning-rate schedule of both stages, built from their config."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import timm.optim
import torch
from diffusers.optimization import get_scheduler
from timm.optim import muon as timm_muon
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from autoencoder.common.config import OptimizerConfig, Precision
from autoencoder.common.precision import resolve_precision

MATRIX_LAYERS = (nn.Linear, nn.Conv2d)


@contextmanager
def _newton_schulz_in(dtype: torch.dtype) -> Iterator[None]:
    """Make timm's Muon orthogonalise in `dtype` inside the block; its step has no argument for that."""
    original = timm_muon.zeropower_via_newtonschulz
    timm_muon.zeropower_via_newtonschulz = partial(original, dtype=dtype)
    try:
        yield
    finally:
        timm_muon.zeropower_via_newtonschulz = original


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
        with _newton_schulz_in(torch.bfloat16 if is_bf16 else torch.float32):
            return super().step(closure)


def make_optimizer(
    config: OptimizerConfig, module: nn.Module, max_steps: int, precision: Precision = "auto"
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Build the optimiser of a module's parameters, and a schedule to be stepped once per optimiser step.

    Args:
        config: config of the optimiser and its schedule.
        module: its parameters are optimised.
        max_steps: length of the schedule.
        precision: the run's precision, which Muon follows.
    """
    optimizer = _optimizer(config, module, precision)
    name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    return optimizer, get_scheduler(name, optimizer, num_warmup_steps=config.warmup_steps, num_training_steps=max_steps)


def _optimizer(config: OptimizerConfig, module: nn.Module, precision: Precision) -> torch.optim.Optimizer:
    common = {"lr": config.learning_rate, "betas": config.betas, "weight_decay": config.weight_decay}
    if config.name in ("adamw", "adam"):
        optimizer = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
        # accelerate moves a model to the GPU only when its optimiser is there.
        on_cuda = torch.cuda.is_available() or next(module.parameters()).is_cuda
        return optimizer(module.parameters(), **common, fused=True if on_cuda else None)
    matrices = [layer.weight for layer in module.modules() if isinstance(layer, MATRIX_LAYERS)]
    taken = {id(weight) for weight in matrices}
    others = [parameter for parameter in module.parameters() if id(parameter) not in taken]
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
