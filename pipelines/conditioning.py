"""What a video is sampled under: its class, how strongly it counts, and a latent that is given."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path

import torch
from safetensors import SafetensorError

from autoencoder.common.cost import count_flops
from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.data import to_video
from autoencoder.data.video_io import ClipReader
from autoencoder.latents import VidTwinLatents
from autoencoder.vidtwin import AutoencoderVidTwin
from generator.dit import VidTwinDiT
from generator.objective import NUM_TRAIN_TIMESTEPS
from generator.tokens import STRUCTURE, TokenLayout

NAMES = ("structure", "dynamics")
GuidanceScale = float | tuple[float, float]
LatentSource = VidTwinLatents | torch.Tensor | str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (arXiv 2207.12598) with a weight for each latent, at some noise levels only.

    Attributes:
        scale: weight, or the pair (structure, dynamics) of weights, g in `null + g (conditional - null)`.
        interval: lowest and highest noise level, in shares of the schedule (timestep / 1000), at which guidance is on
            (arXiv 2404.07724).

    Raises:
        ValueError: if a weight is not finite, or the interval is none within [0, 1].
    """

    scale: GuidanceScale = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        if len(self.weights) != 2 or not all(isinstance(w, Real) and math.isfinite(w) for w in self.weights):
            raise UserError(f"guidance_scale must be finite, one number or (structure, dynamics), got {self.scale!r}")
        is_pair = isinstance(self.interval, Sequence) and len(self.interval) == 2
        if not is_pair or not all(isinstance(bound, Real) for bound in self.interval):
            raise UserError(f"guidance_interval must be a pair (low, high), got {self.interval!r}")
        if not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise UserError(f"guidance_interval must be (low, high) with 0 <= low < high <= 1, got {self.interval!r}")

    @property
    def weights(self) -> tuple[float, ...]:
        """Of structure and of dynamics."""
        return tuple(self.scale) if isinstance(self.scale, Sequence) else (self.scale, self.scale)

    def covers(self, timestep: float) -> bool:
        """Whether a time in [0, 1000] lies in the interval."""
        low, high = self.interval
        return low <= timestep / NUM_TRAIN_TIMESTEPS <= high


@dataclass(frozen=True)
class GivenLatent:
    """One of the two latents of every video, to sample the other one for.

    Attributes:
        name: "structure" or "dynamics".
        values: float32 (B, ...), in the autoencoder's scale.
        tokens: float32 (B, N, D), in the transformer's scale where `is_given`.
        is_given: bool (N, 1), on the tokens of this latent.
    """

    name: str
    values: torch.Tensor
    tokens: torch.Tensor
    is_given: torch.Tensor

    @classmethod
    def make(
        cls,
        name: str,
        source: LatentSource,
        batch_size: int,
        transformer: VidTwinDiT,
        device: torch.device,
        read: Callable[[str | Path], VidTwinLatents],
    ) -> "GivenLatent":
        """Take a latent from its source.

        Args:
            name: "structure" or "dynamics".
            source: both latents, of which one is taken; that one alone; or a file or a list of files for `read`.
            batch_size: number of videos B; a single source serves all of them.
            transformer: the network that is to sample the other latent.
            device: where it samples.
            read: gives the latents in a file.

        Raises:
            ValueError: if the transformer was not trained for it, or the number, shape or values do not fit.
            TypeError: if the source is none of these.
        """
        if not transformer.config["independent_times"]:
            raise UserError(
                f"{name} is given, but the transformer was not trained with independent_times and knows both latents "
                "at one noise level only: train it with --objective.independent_times true"
            )
        layout = transformer.layout
        values = _take(name, source, batch_size, _shape(layout, name), read).to(device)
        halves = {other: values.new_zeros(len(values), *_shape(layout, other)) for other in NAMES} | {name: values}
        tokens = layout.pack(transformer.normalize(VidTwinLatents(**halves)))  # (B, N, D)
        is_structure = layout.type_ids[:, None] == STRUCTURE  # (N, 1)
        is_given = is_structure if name == "structure" else ~is_structure
        return cls(name, values, tokens, is_given.to(device))

    def into_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D) with the given ones in their place."""
        return torch.where(self.is_given, self.tokens, tokens)

    def times(self, timestep: torch.Tensor) -> torch.Tensor:
        """(2,): time 0 for this latent, `timestep` for the other one."""
        return torch.stack([torch.zeros_like(timestep) if name == self.name else timestep for name in NAMES])

    def into_latents(self, latents: VidTwinLatents) -> VidTwinLatents:
        """Sampled latents with the given one in its place, bit for bit."""
        return replace(latents, **{self.name: self.values})


class Denoiser:
    """The transformer under one condition; its calls differ in the tokens and the time alone.

    Args:
        transformer: the network.
        labels: long (B,), on the device of the tokens.
        guidance: how strongly the class counts.
        given: a latent that is not sampled.
    """

    def __init__(
        self, transformer: VidTwinDiT, labels: torch.Tensor, guidance: Guidance, given: GivenLatent | None = None
    ):
        self._transformer, self._guidance, self._given = transformer, guidance, given
        null = torch.full_like(labels, transformer.config.num_classes)
        self._labels = {False: labels, True: torch.cat([labels, null])}  # (B,), (2 B,)
        is_structure = (transformer.layout.type_ids[:, None] == STRUCTURE).to(labels.device)
        self._weights = torch.where(is_structure, *(float(weight) for weight in guidance.weights))  # (N, 1)
        sampled = [weight for name, weight in zip(NAMES, guidance.weights, strict=True) if not self._is_given(name)]
        self._has_guidance = any(weight != 1 for weight in sampled)

    def is_guided(self, timestep: float) -> bool:
        """Whether a call at this time takes the null class as well."""
        return self._has_guidance and self._guidance.covers(timestep)

    def flops(self, tokens: torch.Tensor, timestep: torch.Tensor, guided: bool) -> int:
        """FLOPs of a call with such tokens."""
        return count_flops(self._transformer, *self._arguments(tokens, timestep, guided))

    def __call__(self, tokens: torch.Tensor, timestep: torch.Tensor, guided: bool) -> torch.Tensor:
        """The prediction for tokens (B, N, D) at one time: (B, N, D), in float32."""
        prediction = self._transformer(*self._arguments(tokens, timestep, guided)).sample.float()
        if not guided:
            return prediction  # (B, N, D)
        conditional, null = prediction.chunk(2)  # 2 x (B, N, D)
        return null + self._weights * (conditional - null)

    def with_given(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D) with those of the given latent in their place, if there is one."""
        return tokens if self._given is None else self._given.into_tokens(tokens)

    def _arguments(
        self, tokens: torch.Tensor, timestep: torch.Tensor, guided: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the transformer is called with; with guidance the batch comes twice, the null class last."""
        labels = self._labels[guided]  # (B or 2 B,)
        inputs = self.with_given(tokens).to(self._transformer.dtype)  # (B, N, D)
        inputs = inputs.repeat(len(labels) // len(tokens), 1, 1)  # (B or 2 B, N, D)
        if self._given is not None:
            timestep = self._given.times(timestep)  # (2,)
        return inputs, timestep.expand(len(labels), *timestep.shape), labels

    def _is_given(self, name: str) -> bool:
        return self._given is not None and self._given.name == name


@torch.no_grad()
def read_latents(
    path: str | Path,
    vae: AutoencoderVidTwin,
    clip_fps: float | None = 8.0,
    clip_start: float = 0.0,
    device: torch.device | None = None,
) -> VidTwinLatents:
    """The latents in a file.

    Args:
        path: a file that `VidTwinLatents.save` wrote, by its ending .safetensors; or a video, of which one clip is
            encoded, its centre square at the size of the model.
        vae: the autoencoder; it encodes without dropout, whatever mode it is in.
        clip_fps: frames that the clip takes per second of the video; None takes every frame.
        clip_start: second of the video from which on the clip is taken.
        device: where to encode; that of the autoencoder by default.

    Returns:
        Latents as stored, or the posterior mean of the clip (B = 1).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a .safetensors file holds something else, or the rate or the start cannot be.
        UnreadableVideo: if a video is damaged or too short.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"there is no file {path}; give a video, or latents in a .safetensors file")
    if Path(path).suffix == ".safetensors":
        try:
            return VidTwinLatents.load(path)
        except SafetensorError as error:
            raise UserError(f"{path} is no readable safetensors file: {error}") from error
    if not 0 <= clip_start < math.inf:
        raise UserError(f"clip_start must be a second from 0 on, got {clip_start}")
    reader = ClipReader(vae.config.num_frames, vae.config.sample_size, clip_fps, unseeded="first")
    frames = reader.read(path, start=clip_start)[None]  # (1, F, S, S, 3)
    video = to_video(frames.to(device or vae.device)).to(vae.dtype)  # (1, 3, F, S, S)
    was_training = vae.training
    try:
        return vae.eval().encode(video).latent_dist.mode()
    finally:
        vae.train(was_training)


def _take(
    name: str,
    source: LatentSource,
    batch_size: int,
    shape: tuple[int, ...],
    read: Callable[[str | Path], VidTwinLatents],
) -> torch.Tensor:
    """One latent of each video, a copy in float32 (B, *shape), as of `GivenLatent.make`."""
    if isinstance(source, str | Path):
        source = [source]
    if isinstance(source, Sequence) and all(isinstance(path, str | Path) for path in source):
        if not source:
            raise UserError(f"{name} is an empty list: give one file, or one for each of {batch_size} videos")
        in_file = {path: read(path) for path in dict.fromkeys(source)}
        source = VidTwinLatents.cat([in_file[path] for path in source])
    values = getattr(source, name) if isinstance(source, VidTwinLatents) else source
    if not isinstance(values, torch.Tensor):
        raise TypeError(f"{name} must be VidTwinLatents, a tensor, a file or a list of files, got {source!r:.80}")
    if values.shape[1:] != shape or len(values) not in (1, batch_size):
        raise UserError(
            f"{name} must be (B, {', '.join(map(str, shape))}) with B = 1 or {batch_size}, one for all videos or one "
            f"per video, got {tuple(values.shape)}"
        )
    if not values.isfinite().all():
        raise UserError(f"{name} holds NaN or infinity")
    return values.detach().float().expand(batch_size, *shape).clone()


def _shape(layout: TokenLayout, name: str) -> tuple[int, ...]:
    return layout.structure_shape if name == "structure" else layout.dynamics_shape
