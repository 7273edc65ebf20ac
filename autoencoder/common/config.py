"""Settings that the runs of both stages have: length, batches, records, and the optimiser."""

import importlib.metadata
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from autoencoder.common.errors import UserError, check_least

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16"]
LOGGERS = ("tensorboard", "wandb", "csv")


@dataclass
class RunConfig:
    """Length, batches, precision and records of a run.

    MAY_CHANGE names the settings that may differ when a run is resumed, because they do not affect what it learns.
    `max_steps` may grow, too.
    """

    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        {"output_dir", "resume", "dry_run", "micro_batch_size"}
        | {"compile", "attention_backend", "gradient_checkpointing"}
        | {"logger", "log_every", "checkpoint_every", "keep_checkpoints"}
    )

    output_dir: str | None = None
    """Folder of the run; a new one below outputs/ by default, with --resume the newest one there."""
    resume: bool = False
    """Go on from the newest checkpoint of the folder; its config is the default."""
    dry_run: bool = False
    """Print what the run would be and what a step costs, read one batch, take one step, and write nothing."""
    init_from: str | None = None
    """Folder of a run, of a pipeline or of a saved model, or the name of a shipped pipeline, whose weights this run
    starts from; settings of the model are those of that one where no flag and no --config gives others. Null starts
    from random weights."""
    init_missing: bool = False
    """With `init_from`: let begin anew what does not fit, instead of refusing it. It is listed either way."""
    seed: int = 0
    """All randomness of the run is a function of it."""
    max_steps: int = 1000
    """Optimiser steps of the whole run."""
    batch_size: int = 8
    """Samples of an optimiser step, over all processes and micro-batches."""
    micro_batch_size: int | None = None
    """Samples that go through a device at a time, at most; null takes a device's whole share of the batch. It only
    bounds memory: gradients are those of the whole batch, however many devices there are."""
    precision: Precision = "auto"
    """Arithmetic of the matrix products: "bf16", which is autocast, while weights stay fp32; "fp32"; or "auto", which
    takes bf16 where the processor or GPU multiplies it natively. A run that is resumed keeps what it began with."""
    tf32: bool = True
    """On CUDA, multiply fp32 matrices in TF32, whose mantissa has 10 bits; metrics never do."""
    compile: bool | Literal["auto"] = "auto"
    """Compile the blocks of the model with torch.compile; "auto" does so on CUDA where there is a C++ compiler."""
    attention_backend: str | None = None
    """Attention kernel by diffusers' name, such as "flash", for which flash-attn must be installed, or "_native_math";
    null lets torch choose."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, which saves memory."""
    logger: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Where scalars and previews are recorded: "tensorboard"; "wandb", Weights & Biases, for which pip install
    "vidtwin[wandb]"; "csv", a file of the scalars alone; or several of these."""
    log_every: int = 10
    """Steps between two records of the scalars."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; the last one is always written."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""

    def __post_init__(self):
        sizes = ("batch_size", "micro_batch_size")
        check_least(self, 1, "max_steps", *sizes, "log_every", "checkpoint_every", "keep_checkpoints")
        _check_loggers(self.logger)
        if self.init_missing and self.init_from is None:
            raise UserError("init_missing says what becomes of a model to start from: give --init-from, too")

    def micro_batches(self, num_processes: int) -> list[int]:
        """Sizes of the micro-batches of one process, the largest first; they add up to its share of the batch.

        They are as few as `micro_batch_size` allows, and then as equal as can be. A mean over the batch weighs each by
        its size.

        Args:
            num_processes: training processes that share the batch equally.

        Raises:
            UserError: if the processes do not divide the batch.
        """
        share, rest = divmod(self.batch_size, num_processes)
        if rest:
            raise UserError(
                f"batch_size={self.batch_size} cannot be shared out equally to {num_processes} devices: give a "
                "multiple of their number, or fewer devices"
            )
        count = math.ceil(share / (self.micro_batch_size or share))
        return [share // count + (part < share % count) for part in range(count)]


def _check_loggers(names: list[str]) -> None:
    if not names or len(set(names)) < len(names) or not set(names) <= set(LOGGERS):
        raise UserError(f"logger must be one or several of {', '.join(LOGGERS)}, got {', '.join(names) or 'none'}")
    if "wandb" in names:
        try:
            importlib.metadata.distribution("wandb")  # `import wandb` would take a folder of that name for it
        except importlib.metadata.PackageNotFoundError as error:
            raise UserError(
                'logger=wandb needs a package that is not installed: pip install "vidtwin[wandb]"'
            ) from error


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
        check_least(self, 1, "newton_schulz_steps", group="optimizer.")
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
        self, module: "torch.nn.Module", max_steps: int, precision: Precision = "auto"
    ) -> "tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]":
        """The optimiser and the schedule of a module's parameters, by `optimization.make_optimizer`."""
        from autoencoder.common.optimization import make_optimizer

        return make_optimizer(self, module, max_steps, precision)
