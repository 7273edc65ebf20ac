"""The objective of stage two: noising, target, weight, condition dropout and loss, as functions over a scheduler.

Everything random about a sample comes from that sample's own generator, so it depends neither on the split of the batch
nor on its order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from autoencoder.common.errors import UserError
from generator.config import DDPM_KINDS, FLOW_KINDS, ObjectiveConfig, check_kind

NUM_TRAIN_TIMESTEPS = 1000
MIN_SIGMA = 0.05  # noise level below which the error of a velocity made from x_0 weighs no more (arXiv 2511.13720)


@dataclass(frozen=True)
class NoisyBatch:
    """One draw of the objective for a batch.

    Attributes:
        tokens: (B, N, D), the noisy latents x_t; a given latent is x_0.
        timestep: float (B,), in [0, 1000], the model's input; with independent times (B, 2) for structure and dynamics,
            with times of frames (B, 1 + G) for structure and each patch of frames; 0 for what is given.
        labels: long (B,), the null label where the condition was dropped.
        target: (B, N, D), of the model's prediction.
        weight: float32 (B, 1), (B, 2) for structure and dynamics, or (B, N) with times of frames: factor of the squared
            error; 0 for what is given.
    """

    tokens: torch.Tensor
    timestep: torch.Tensor
    labels: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "NoisyBatch":
        """The batch with `function` applied to every tensor."""
        return NoisyBatch(**{field.name: function(getattr(self, field.name)) for field in fields(self)})

    def to(self, device: torch.device) -> "NoisyBatch":
        """The batch on a device; from pinned memory the copy does not block."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "NoisyBatch":
        """The batch in page-locked memory, from where copies do not block; `DataLoader` calls this."""
        return self.map(torch.Tensor.pin_memory)


@dataclass(frozen=True)
class Losses:
    """Weighted squared errors, float32 scalars.

    Attributes:
        total: the loss to minimise; the mean over all numbers of the batch.
        structure: the mean over the numbers of the structure latents of all samples.
        dynamics: the same of the dynamics latents.

    A latent that is given has no error but is counted, so that the mean of the losses of two equal parts of a batch is
    the loss of the batch. With `independent_times`, structure and dynamics therefore come out lower than the error of
    a latent that is to be predicted, by a share of given_share / 2 on average; dynamics also by that of its history.
    """

    total: torch.Tensor
    structure: torch.Tensor
    dynamics: torch.Tensor


def make_scheduler(prediction_type: str) -> SchedulerMixin:
    """The diffusers scheduler that samples from a model of this prediction type; pipelines are saved with it.

    Args:
        prediction_type: "flow", "flow_sample", "sample", "epsilon" or "v_prediction".

    Returns:
        For the flows the Euler solver of flow matching, timestep = 1000 sigma; it takes the velocity, which
        `pipelines.schedulers.Solver` makes from the x_0 of "flow_sample". For the others DDIM over 1000 steps
        (arXiv 2412.17726) with linear betas, 1e-4 to 0.02; latents have no fixed range, so no clipping.

    Raises:
        UserError: for another prediction type.
    """
    check_kind("prediction_type", prediction_type)
    if prediction_type in FLOW_KINDS:
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=1.0)
    return DDIMScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type=prediction_type,
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
    others: torch.Tensor | None = None,
    time_rows: torch.Tensor | None = None,
) -> Losses:
    """The training loss of one batch.

    Args:
        model: called as `model(tokens, timestep, labels).sample`.
        tokens: float (B, N, D), clean latents, normalised and packed.
        labels: long (B,), in [0, null_label).
        config: the objective.
        generators: B CPU generators, one per sample; they are advanced.
        mask: bool (N, D), False on padding, on the device of the tokens.
        num_structure_tokens: number of structure tokens, which are the first of the N.
        null_label: the label of the null class.
        others, time_rows: as in `noisy_batch`.

    Returns:
        Losses over the numbers that `mask` keeps, `masked_losses` of the model's prediction.

    Raises:
        UserError, ValueError: as `noisy_batch`.
    """
    batch = noisy_batch(tokens, labels, config, generators, num_structure_tokens, null_label, others, time_rows)
    return denoising_losses(model, batch, mask, num_structure_tokens)


def denoising_losses(model: Callable, batch: NoisyBatch, mask: torch.Tensor, num_structure_tokens: int) -> Losses:
    """The training loss of a batch of `noisy_batch`, on the device of the model and the batch.

    Args:
        model, mask, num_structure_tokens: as in `diffusion_loss`.
        batch: made by `noisy_batch`.
    """
    prediction = model(batch.tokens, batch.timestep, batch.labels).sample  # (B, N, D)
    return masked_losses(prediction, batch.target, mask, num_structure_tokens, batch.weight)


def noisy_batch(
    tokens: torch.Tensor,
    labels: torch.Tensor,
    config: ObjectiveConfig,
    generators: Sequence[torch.Generator],
    num_structure_tokens: int,
    null_label: int,
    others: torch.Tensor | None = None,
    time_rows: torch.Tensor | None = None,
) -> NoisyBatch:
    """Draw times, condition drops and noise, in this order, for every sample from its own generator.

    Args:
        tokens, labels, config, generators, num_structure_tokens, null_label: as in `diffusion_loss`.
        others: float (B, N, D), for each sample the clean latents of another one, which a `contrastive_weight` needs.
            Their noise is drawn last.
        time_rows: long (N,), `TokenLayout.time_rows`, which times of frames need.

    Raises:
        UserError: if there is not one label and one generator per sample, not one other where one is needed, or a
            history is asked for in a single patch of frames.
        ValueError: if a label is out of range; checked only for labels on the CPU, so that no device has to wait.
    """
    if len(labels) != len(tokens) or len(generators) != len(tokens):
        raise UserError(
            f"{len(tokens)} samples need as many labels and generators, got {len(labels)}, {len(generators)}"
        )
    if config.contrastive_weight and (others is None or others.shape != tokens.shape):
        raise UserError(f"contrastive_weight={config.contrastive_weight} needs another clip for each of the samples")
    if labels.device.type == "cpu" and not bool(((labels >= 0) & (labels < null_label)).all()):
        raise ValueError(f"labels must lie in [0, {null_label}), got {labels.tolist()}")
    times, given = _draw_times(config, generators, tokens.device, time_rows)  # 2 x (B, 1, 2 or 1 + G)
    dropped = torch.cat([torch.rand(1, generator=generator) for generator in generators]) < config.label_dropout  # (B,)
    noise = randn_tensor(tokens.shape, generator=list(generators), device=tokens.device, dtype=tokens.dtype)
    timestep = NUM_TRAIN_TIMESTEPS * times if config.kind in FLOW_KINDS else times.float()
    if config.frame_times:
        times, given = times[:, time_rows], given[:, time_rows]  # 2 x (B, N)
    token_counts = num_structure_tokens, tokens.shape[1] - num_structure_tokens
    noisy, target = _NOISINGS[config.kind](tokens, noise, _per_token(times, token_counts))
    if config.contrastive_weight:
        target = _contrasted(config, noisy, target, others, _per_token(times, token_counts), generators)
    return NoisyBatch(
        tokens=torch.where(_per_token(given, token_counts), tokens, noisy),
        timestep=timestep if config.independent_times else timestep.squeeze(1),  # (B, 2 or 1 + G), or (B,)
        labels=labels.masked_fill(dropped.to(labels.device), null_label),
        target=target,
        weight=_weights(config, times).masked_fill(given, 0.0),
    )


def masked_losses(
    prediction: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor,
    num_structure_tokens: int,
    weight: torch.Tensor | None = None,
) -> Losses:
    """Mean squared error over the numbers of the tokens that are not padding.

    Apart from `weight`, every number counts the same in the total, so the larger latent dominates. The paper does not
    say how it weighs the two.

    Args:
        prediction, target: (B, N, D).
        mask: bool (N, D), False on padding.
        num_structure_tokens: number of structure tokens, which are the first of the N.
        weight: (B, 1), (B, 2) for structure and dynamics, or (B, N), factors of the squared error; None stands for 1.
            The means are over all numbers, whatever they weigh.
    """
    # Masked before the square, so that padding does not reach the gradient either.
    error = torch.where(mask, prediction.float() - target.float(), 0.0).square()  # (B, N, D)
    if weight is not None:
        error = error * _per_token(weight, (num_structure_tokens, mask.shape[0] - num_structure_tokens))
    error = error.mean(dim=0)  # (N, D)
    structure, dynamics = (part.sum() for part in _by_type(error, num_structure_tokens))
    num_structure, num_dynamics = (part.sum() for part in _by_type(mask, num_structure_tokens))
    return Losses(
        total=(structure + dynamics) / (num_structure + num_dynamics),
        structure=structure / num_structure,
        dynamics=dynamics / num_dynamics,
    )


def _by_type(values: torch.Tensor, num_structure_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    return values[:num_structure_tokens], values[num_structure_tokens:]


def _per_token(values: torch.Tensor, token_counts: tuple[int, int]) -> torch.Tensor:
    """(B, 1) for all tokens -> (B, 1, 1); (B, 2) for structure and dynamics, or (B, N) -> (B, N, 1)."""
    if values.shape[1] == 2:
        parts = zip(values.split(1, dim=1), token_counts, strict=True)
        values = torch.cat([part.expand(-1, count) for part, count in parts], dim=1)  # (B, N)
    return values[..., None]


def _draw_times(
    config: ObjectiveConfig,
    generators: Sequence[torch.Generator],
    device: torch.device,
    time_rows: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise levels or steps, and which of them are given: (B, 1) for both latents, (B, 2), or (B, 1 + G)."""
    draw = _pair_of_times if config.independent_times else _one_time
    if config.frame_times:
        if time_rows is None:
            raise UserError("history_share and frame_share need time_rows, those of the model's layout")
        draw = partial(_times_of_frames, int(time_rows.max()))
    times, given = zip(*(draw(config, generator) for generator in generators), strict=True)
    return torch.stack(times).to(device), torch.tensor(given, device=device)


def _one_time(config: ObjectiveConfig, generator: torch.Generator) -> tuple[torch.Tensor, tuple[bool]]:
    """A time (1,) of both latents; none is given."""
    return _TIMES[config.kind](config, generator), (False,)


def _pair_of_times(config: ObjectiveConfig, generator: torch.Generator) -> tuple[torch.Tensor, tuple[bool, bool]]:
    """Times (2,) of structure and dynamics, and which of the two is given; all cases draw as many numbers."""
    times = torch.cat([_TIMES[config.kind](config, generator) for _ in range(2)])  # (2,)
    case, which = torch.rand(2, generator=generator).tolist()
    if case < config.joint_share:
        return times[:1].expand(2), (False, False)
    if case >= config.joint_share + config.given_share:
        return times, (False, False)
    given = which < 0.5, which >= 0.5
    return times.masked_fill(torch.tensor(given), 0), given


def _times_of_frames(
    num_patches: int, config: ObjectiveConfig, generator: torch.Generator
) -> tuple[torch.Tensor, tuple[bool, ...]]:
    """Times (1 + G,) of structure and of G patches of frames, and which are given; all cases draw as many numbers."""
    if num_patches < 2 and config.history_share:
        raise UserError(
            f"history_share={config.history_share} leaves no frame to predict where one dynamics token holds all "
            "frames: make model.dynamics_patch_size smaller along the frames"
        )
    (structure, dynamics), (structure_given, dynamics_given) = _pair_of_times(config, generator)
    case, length = torch.rand(1, generator=generator).item(), torch.rand(1, generator=generator).item()
    own = torch.cat([_TIMES[config.kind](config, generator) for _ in range(num_patches)])  # (G,)
    history = 1 + int(length * (num_patches - 1)) if case < config.history_share else 0
    has_own = config.history_share <= case < config.history_share + config.frame_share and not dynamics_given
    given = torch.arange(num_patches) < (num_patches if dynamics_given else history)  # (G,)
    frames = (own if has_own else dynamics.expand(num_patches)).masked_fill(given, 0)
    return torch.cat([structure[None], frames]), (structure_given, *given.tolist())


def _logit_normal_time(config: ObjectiveConfig, generator: torch.Generator) -> torch.Tensor:
    """Noise level sigma in (0, 1), float (1,) (arXiv 2403.03206, section 3.1)."""
    return torch.sigmoid(config.logit_mean + config.logit_std * torch.randn(1, generator=generator))


def _uniform_step(config: ObjectiveConfig, generator: torch.Generator) -> torch.Tensor:
    """DDPM step in 0 to 999, long (1,)."""
    return torch.randint(NUM_TRAIN_TIMESTEPS, (1,), generator=generator)


def _flow(kind: str, x0: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x_t = (1 - sigma) x_0 + sigma noise; the target is its derivative in sigma, or x_0."""
    return torch.lerp(x0, noise, sigma.to(x0.dtype)), noise - x0 if kind == "flow" else x0


def _ddpm(kind: str, x0: torch.Tensor, noise: torch.Tensor, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, with abar of the scheduler that samples; target by kind."""
    abar = _alphas_cumprod(x0.device)[step]  # (B, 1 or N, 1)
    signal, spread = abar.sqrt().to(x0.dtype), (1 - abar).sqrt().to(x0.dtype)
    noisy = signal * x0 + spread * noise
    if kind == "v_prediction":
        return noisy, signal * noise - spread * x0
    return noisy, x0 if kind == "sample" else noise


def _contrasted(
    config: ObjectiveConfig,
    noisy: torch.Tensor,
    target: torch.Tensor,
    others: torch.Tensor,
    times: torch.Tensor,
    generators: Sequence[torch.Generator],
) -> torch.Tensor:
    """The target of contrastive flow matching (arXiv 2506.05350, equation 6) as that of one squared error.

    With the target w that is right for another clip at this time, and its weight c,

        |p - t|^2 - c |p - w|^2 = (1 - c) |p - t - c / (1 - c) (t - w)|^2 + terms without the prediction p,

    so the gradient is that of the paper's loss, and the loss cannot fall without end. On average over the other clips
    it is least at (E[t | x_t] - c E[w]) / (1 - c).
    """
    noise = randn_tensor(others.shape, generator=list(generators), device=others.device, dtype=others.dtype)
    wrong = _NOISINGS[config.kind](others, noise, times)[1]
    if config.kind == "flow_sample":  # the x_0 for which the velocity (x_t - x_0) / sigma is that of the other clip
        wrong = noisy - times.clamp(min=MIN_SIGMA).to(noisy.dtype) * (noise - others)
    return target + config.contrastive_weight / (1 - config.contrastive_weight) * (target - wrong)


def _weights(config: ObjectiveConfig, times: torch.Tensor) -> torch.Tensor:
    """Weights of the squared error of each kind's prediction; less what is contrasted, as `_contrasted` has it."""
    return (1 - config.contrastive_weight) * _weights_by_time(config, times)


def _weights_by_time(config: ObjectiveConfig, times: torch.Tensor) -> torch.Tensor:
    """Min-SNR weights (arXiv 2303.09556), those of a velocity that is made from x_0, or ones.

    With SNR = abar / (1 - abar), the error of x_0 is that of the noise over SNR and that of v over SNR + 1. The
    velocity of the flow is (x_t - x_0) / sigma, so the error of x_0 over sigma^2 is the velocity's.
    """
    if config.kind == "flow_sample":
        return times.clamp(min=MIN_SIGMA) ** -2
    if config.min_snr_gamma is None:
        return torch.ones(times.shape, device=times.device)
    abar = _alphas_cumprod(times.device)[times]  # (B, 1 or 2)
    snr = abar / (1 - abar)
    unit = {"sample": 1.0, "epsilon": snr, "v_prediction": snr + 1}[config.kind]
    return snr.clamp(max=config.min_snr_gamma) / unit


@lru_cache
def _alphas_cumprod(device: torch.device) -> torch.Tensor:
    """abar of the 1000 steps, float32, kept on the device of the tokens."""
    return make_scheduler("sample").alphas_cumprod.to(device)


_TIMES = dict.fromkeys(FLOW_KINDS, _logit_normal_time) | dict.fromkeys(DDPM_KINDS, _uniform_step)
_NOISINGS = {kind: partial(_flow, kind) for kind in FLOW_KINDS} | {kind: partial(_ddpm, kind) for kind in DDPM_KINDS}
