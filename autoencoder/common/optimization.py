"""Optimiser and learning-rate schedule, by config, for both stages."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import timm.optim
import torch
from diffusers.optimization import get_scheduler
from timm.optim import muon as timm_muon
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from autoencoder.common.errors import UserError
from autoencoder.common.precision import Precision, resolve_precision

MATRIX_LAYERS = (nn.Linear, nn.Conv2d)


@contextmanager
def _newton_schulz_in(dtype: torch.dtype) -> Iterator[None]:
    """timm's Muon orthogonalises in this dtype while the block runs: it hands none to the function that does."""
    sound = timm_muon.zeropower_via_newtonschulz
    timm_muon.zeropower_via_newtonschulz = partial(sound, dtype=dtype)
    try:
        yield
    finally:
        timm_muon.zeropower_via_newtonschulz = sound


class Muon(timm.optim.Muon):
    """timm's Muon, which orthogonalises in bf16 only in a bf16 run on a device that multiplies bf16, else in fp32.

    Args:
        params: as all optimisers take them.
        precision: of the run.
        options: those of timm's Muon.
    """

    def __init__(self, params, precision: Precision = "auto", **options):
        super().__init__(params, **options)
        self.precision = precision

    @torch.no_grad()
    def step(self, closure=None):
        """One step of all parameters."""
        device = self.param_groups[0]["params"][0].device
        is_bf16 = self.precision != "fp32" and resolve_precision("auto", device) == "bf16"
        with _newton_schulz_in(torch.bfloat16 if is_bf16 else torch.float32):
            return super().step(closure)


@dataclass
class OptimizerConfig:
    """The optimiser and its schedule."""

    name: Literal["adamw", "adam", "muon"] = "adamw"
    """Optimiser: AdamW; Adam, whose weight decay is an L2 penalty; or Muon for the weights of linears and convolutions,
    with NAdamW for all other parameters."""
    learning_rate: float = 1e-4
    """Highest learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the two moments."""
    momentum: float = 0.95
    """Nesterov momentum of Muon."""
    newton_schulz_steps: int = 5
    """Iterations that Muon takes to orthogonalise an update."""
    fallback_lr_scale: float = 1.0
    """Learning rate of the parameters that Muon leaves to NAdamW, over `learning_rate`."""
    weight_decay: float = 1e-4
    """Weight decay."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: down to zero at the last step along a half cosine, or constant."""
    warmup_steps: int = 0
    """Optimiser steps of linear warm-up."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""

    def __post_init__(self):
        if not self.learning_rate > 0:
            raise UserError(f"optimizer.learning_rate must be positive, got {self.learning_rate}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimizer.betas must lie in [0, 1), got {self.betas}")
        if not 0 <= self.momentum < 1:
            raise UserError(f"optimizer.momentum must lie in [0, 1), got {self.momentum}")
        if self.newton_schulz_steps < 1:
            raise UserError(f"optimizer.newton_schulz_steps must be at least 1, got {self.newton_schulz_steps}")
        if not self.fallback_lr_scale > 0:
            raise UserError(f"optimizer.fallback_lr_scale must be positive, got {self.fallback_lr_scale}")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise UserError(
                "optimizer.weight_decay and optimizer.warmup_steps must be at least 0, got "
                f"{self.weight_decay} and {self.warmup_steps}"
            )
        if not self.max_grad_norm > 0:
            raise UserError(f"optimizer.max_grad_norm must be positive, got {self.max_grad_norm}")

    def build(
        self, module: nn.Module, max_steps: int, precision: Precision = "auto"
    ) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """The optimiser of a module's parameters, and a schedule to be stepped once per optimiser step.

        Args:
            module: its parameters are optimised.
            max_steps: length of the schedule.
            precision: of the run, which Muon follows.
        """
        optimizer = self._optimizer(module, precision)
        name = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        return optimizer, get_scheduler(
            name, optimizer, num_warmup_steps=self.warmup_steps, num_training_steps=max_steps
        )

    def _optimizer(self, module: nn.Module, precision: Precision) -> torch.optim.Optimizer:
        common = {"lr": self.learning_rate, "betas": self.betas, "weight_decay": self.weight_decay}
        if self.name == "adamw":
            return torch.optim.AdamW(module.parameters(), **common)
        if self.name == "adam":
            return torch.optim.Adam(module.parameters(), **common)
        matrices = [layer.weight for layer in module.modules() if isinstance(layer, MATRIX_LAYERS)]
        taken = {id(weight) for weight in matrices}
        others = [parameter for parameter in module.parameters() if id(parameter) not in taken]
        groups = [{"params": matrices, "use_muon": True}, {"params": others, "use_fallback": True}]
        groups = [group for group in groups if group["params"]]
        return Muon(
            groups,
            precision,
            **common,
            momentum=self.momentum,
            nesterov=True,
            ns_steps=self.newton_schulz_steps,
            fallback_lr_scale=self.fallback_lr_scale,
        )
