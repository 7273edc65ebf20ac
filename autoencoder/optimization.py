"""Optimiser and learning-rate schedule, by config, for both stages."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.optimization import get_scheduler
from torch.optim.lr_scheduler import LambdaLR

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


@dataclass
class OptimizerConfig:
    """The optimiser and its schedule."""

    name: Literal["adamw", "adam"] = "adamw"
    """Optimiser: AdamW, or Adam, whose weight decay is an L2 penalty."""
    learning_rate: float = 1e-4
    """Highest learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the two moments."""
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
            raise ValueError(f"optimizer.learning_rate must be positive, got {self.learning_rate}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas must lie in [0, 1), got {self.betas}")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise ValueError(
                "optimizer.weight_decay and optimizer.warmup_steps must be at least 0, got "
                f"{self.weight_decay} and {self.warmup_steps}"
            )
        if not self.max_grad_norm > 0:
            raise ValueError(f"optimizer.max_grad_norm must be positive, got {self.max_grad_norm}")

    def build(self, parameters: Iterable[torch.nn.Parameter], max_steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """The optimiser, and a schedule to be stepped once per optimiser step."""
        optimizer = OPTIMIZERS[self.name](
            parameters, lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay
        )
        name = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        return optimizer, get_scheduler(
            name, optimizer, num_warmup_steps=self.warmup_steps, num_training_steps=max_steps
        )
