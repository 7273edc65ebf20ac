"""What stage two learns: noising, target, condition dropout and loss, as functions of model, batch and generators.

Everything random about a sample comes from that sample's own generator, so neither the split nor the order of a batch
changes what a sample sees.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

NUM_TRAIN_TIMESTEPS = 1000


@dataclass
class ObjectiveConfig:
    """What the diffusion transformer is trained to predict, and from which noise levels."""

    kind: str = "flow"
    """"flow": rectified flow with logit-normal times, predicts noise - x_0. "sample": 1000 DDPM steps at uniform times,
    predicts x_0, as in the paper. It is the model's prediction_type."""
    label_dropout: float = 0.1
    """Share of samples that are trained with the null class, for classifier-free guidance. The paper drops 0.2."""
    logit_mean: float = 0.0
    """Mean of the logit of the noise level of "flow"; above 0 means more noise."""
    logit_std: float = 1.0
    """Standard deviation of the logit of the noise level of "flow"."""

    def __post_init__(self):
        _check_kind("kind", self.kind)
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout must be in [0, 1], got {self.label_dropout}")
        if self.logit_std <= 0:
            raise ValueError(f"logit_std must be positive, got {self.logit_std}")


@dataclass(frozen=True)
class NoisyBatch:
    """One draw of the objective for a batch.

    Attributes:
        tokens: (B, N, D), the noisy latents x_t.
        timestep: float (B,), in [0, 1000], what the model is told.
        labels: long (B,), the null label where the condition was dropped.
        target: (B, N, D), what the model should return.
    """

    tokens: torch.Tensor
    timestep: torch.Tensor
    labels: torch.Tensor
    target: torch.Tensor


@dataclass(frozen=True)
class Losses:
    """Mean squared errors, float32 scalars; `total` is the one to minimise."""

    total: torch.Tensor
    structure: torch.Tensor
    dynamics: torch.Tensor


def make_scheduler(prediction_type: str) -> SchedulerMixin:
    """The diffusers scheduler that samples from a model of this prediction type; pipelines are saved with it.

    Args:
        prediction_type: "flow" or "sample".

    Returns:
        For "flow" the Euler solver of flow matching, timestep = 1000 sigma. For "sample" DDIM over 1000 steps
        (PAPER.md, Generation: "Model") with linear betas, 1e-4 to 0.02; latents have no fixed range, so no clipping.
    """
    _check_kind("prediction_type", prediction_type)
    if prediction_type == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=1.0)
    return DDIMScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="sample",
        clip_sample=False,
        timestep_spacing="trailing",
    )


def diffusion_loss(
    model: Callable,
    tokens: torch.Tensor,
    labels: torch.Tensor,
    config: ObjectiveConfig,
    generators: Sequence[torch.Generator],
    *,
    mask: torch.Tensor,
    num_structure_tokens: int,
    null_label: int,
) -> Losses:
    """The training loss of one batch.

    Args:
        model: called as `model(tokens, timestep, labels).sample`.
        tokens: float (B, N, D), clean latents, normalised and packed.
        labels: long (B,), in [0, null_label).
        config: the objective.
        generators: B CPU generators, one per sample; they are advanced.
        mask: bool (N, D), False on padding, on the device of the tokens.
        num_structure_tokens: how many of the N tokens, from the first, are structure.
        null_label: the label that stands for no class.

    Returns:
        Losses over the numbers that `mask` keeps, `masked_losses` of the model's prediction.

    Raises:
        ValueError: as `noisy_batch`.
    """
    batch = noisy_batch(tokens, labels, config, generators, null_label)
    prediction = model(batch.tokens, batch.timestep, batch.labels).sample  # (B, N, D)
    return masked_losses(prediction, batch.target, mask, num_structure_tokens)


def noisy_batch(
    tokens: torch.Tensor,
    labels: torch.Tensor,
    config: ObjectiveConfig,
    generators: Sequence[torch.Generator],
    null_label: int,
) -> NoisyBatch:
    """Draw times, condition drops and noise, in this order, for every sample from its own generator.

    Args:
        tokens, labels, config, generators, null_label: as in `diffusion_loss`.

    Raises:
        ValueError: if there is not one label and one generator per sample, or a label is out of range (looked at only
            where the labels lie on the CPU, so that no device has to wait).
    """
    if len(labels) != len(tokens) or len(generators) != len(tokens):
        raise ValueError(
            f"{len(tokens)} samples need as many labels and generators, got {len(labels)}, {len(generators)}"
        )
    if labels.device.type == "cpu" and not bool(((labels >= 0) & (labels < null_label)).all()):
        raise ValueError(f"labels must lie in [0, {null_label}), got {labels.tolist()}")
    times = torch.cat([_TIMES[config.kind](config, generator) for generator in generators])  # (B,)
    dropped = torch.cat([torch.rand(1, generator=generator) for generator in generators]) < config.label_dropout  # (B,)
    noise = randn_tensor(tokens.shape, generator=list(generators), device=tokens.device, dtype=tokens.dtype)
    noisy, timestep, target = _NOISINGS[config.kind](tokens, noise, times.to(tokens.device))
    labels = labels.masked_fill(dropped.to(labels.device), null_label)
    return NoisyBatch(noisy, timestep, labels, target)


def masked_losses(
    prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, num_structure_tokens: int
) -> Losses:
    """Mean squared error over the real numbers of the tokens.

    Every number weighs the same in the total, which is therefore nearer to the loss of the larger latent; the paper
    does not say how it weighs the two.

    Args:
        prediction, target: (B, N, D).
        mask: bool (N, D), False on padding.
        num_structure_tokens: how many of the N tokens, from the first, are structure.
    """
    # Masked before the square, so that not even the gradient sees what padding holds.
    error = torch.where(mask, prediction.float() - target.float(), 0.0).square().mean(dim=0)  # (N, D)
    structure, dynamics = (part.sum() for part in _by_type(error, num_structure_tokens))
    num_structure, num_dynamics = (part.sum() for part in _by_type(mask, num_structure_tokens))
    return Losses(
        total=(structure + dynamics) / (num_structure + num_dynamics),
        structure=structure / num_structure,
        dynamics=dynamics / num_dynamics,
    )


def _by_type(values: torch.Tensor, num_structure_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    return values[:num_structure_tokens], values[num_structure_tokens:]


def _logit_normal_time(config: ObjectiveConfig, generator: torch.Generator) -> torch.Tensor:
    """Noise level sigma in (0, 1), float (1,) (arXiv 2403.03206, section 3.1)."""
    return torch.sigmoid(config.logit_mean + config.logit_std * torch.randn(1, generator=generator))


def _uniform_step(config: ObjectiveConfig, generator: torch.Generator) -> torch.Tensor:
    """DDPM step in 0 to 999, long (1,)."""
    return torch.randint(NUM_TRAIN_TIMESTEPS, (1,), generator=generator)


def _flow(
    x0: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_t = (1 - sigma) x_0 + sigma noise; the target is its derivative in sigma."""
    noisy = torch.lerp(x0, noise, sigma.to(x0.dtype)[:, None, None])
    return noisy, NUM_TRAIN_TIMESTEPS * sigma, noise - x0


def _sample(
    x0: torch.Tensor, noise: torch.Tensor, step: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, with abar of the scheduler that samples; the target is x_0."""
    return _training_scheduler().add_noise(x0, noise, step), step.float(), x0


@lru_cache(maxsize=1)
def _training_scheduler() -> DDIMScheduler:
    """Kept, because `add_noise` leaves its table on the device of the tokens."""
    return make_scheduler("sample")


_TIMES = {"flow": _logit_normal_time, "sample": _uniform_step}
_NOISINGS = {"flow": _flow, "sample": _sample}


def _check_kind(name: str, value: str) -> None:
    if value not in _NOISINGS:
        raise ValueError(f"{name} must be one of {', '.join(_NOISINGS)}, got {value!r}")
