"""The conditions of sampling: the class with its guidance, and a latent that is given."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from autoencoder.common.cost import count_flops
from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.data import to_video
from autoencoder.data.video_io import ClipReader
from autoencoder.latents import VidTwinLatents
from autoencoder.vidtwin import AutoencoderVidTwin
from generator.dit import VidTwinDiT
from generator.objective import NUM_TRAIN_TIMESTEPS
from generator.tokens import STRUCTURE
from pipelines.arguments import describe, plain
from pipelines.video_input import FORMS, as_video

NAMES = ("structure", "dynamics")
GuidanceScale = float | tuple[float, float]
Array = torch.Tensor | np.ndarray
LatentSource = VidTwinLatents | Array | str | Path | Sequence[str | Path | Array | Image.Image | Sequence[Image.Image]]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (arXiv 2207.12598) with a weight for each latent, at some noise levels only.

    Attributes:
        scale: weight, or the pair (structure, dynamics) of weights, g in `null + g (conditional - null)`.
        interval: lowest and highest noise level, in shares of the schedule (timestep / 1000), at which guidance is on
            (arXiv 2404.07724).

    Raises:
        UserError: if a weight is not finite, or the interval does not lie within [0, 1].
    """

    scale: GuidanceScale = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        weights = plain(self.scale)
        weights = [plain(weight) for weight in (weights if isinstance(weights, list | tuple) else (weights, weights))]
        if len(weights) != 2 or not all(_is_finite(weight) for weight in weights):
            raise UserError(
                f"guidance_scale must be finite, one number or (structure, dynamics), got {describe(self.scale)}"
            )
        interval = plain(self.interval)
        is_pair = isinstance(interval, list | tuple) and len(interval) == 2
        if not is_pair or not all(isinstance(bound, Real) for bound in interval):
            raise UserError(f"guidance_interval must be a pair (low, high), got {describe(self.interval)}")
        if not 0 <= interval[0] < interval[1] <= 1:
            raise UserError(f"guidance_interval must be (low, high) with 0 <= low < high <= 1, got {self.interval!r}")

    @property
    def weights(self) -> tuple[float, float]:
        """The weights of structure and of dynamics."""
        scale = plain(self.scale)
        structure, dynamics = scale if isinstance(scale, list | tuple) else (scale, scale)
        return float(structure), float(dynamics)

    def covers(self, timestep: float) -> bool:
        """Whether a time in [0, 1000] lies in the interval."""
        low, high = self.interval
        return low <= timestep / NUM_TRAIN_TIMESTEPS <= high


@dataclass(frozen=True)
class GivenLatent:
    """What is given of the latents of every video, so that only the rest is sampled.

    Attributes:
        latents: float32, in the autoencoder's scale where they are given.
        has_structure: whether the structure is given.
        num_frames: frames of the dynamics that are, the first ones: all F, none, or whole patches of frames.
        tokens: float32 (B, N, D), in the transformer's scale where `is_given`.
        is_given: bool (N, 1).
        given_times: which times are those of something given: of structure and dynamics, or where the dynamics are
            given in part, of structure and of each patch of frames.
    """

    latents: VidTwinLatents
    has_structure: bool
    num_frames: int
    tokens: torch.Tensor
    is_given: torch.Tensor
    given_times: tuple[bool, ...]

    @classmethod
    def of(
        cls, latents: VidTwinLatents, has_structure: bool, num_frames: int, transformer: VidTwinDiT
    ) -> "GivenLatent":
        """Take parts of latents, which are finite where they are not taken, too; the arguments are the attributes."""
        layout = transformer.layout
        patches = [start < num_frames for start in range(0, layout.dynamics_shape[1], layout.dynamics_patch_size[0])]
        is_given = torch.tensor([has_structure, *patches])[layout.time_rows, None]  # (N, 1)
        tokens = layout.pack(transformer.normalize(latents))  # (B, N, D)
        times = patches if len(set(patches)) == 2 else patches[:1]
        return cls(latents, has_structure, num_frames, tokens, is_given.to(tokens.device), (has_structure, *times))

    @classmethod
    def make(
        cls,
        structure: LatentSource | None,
        dynamics: LatentSource | None,
        batch_size: int,
        transformer: VidTwinDiT,
        reader: "LatentReader",
    ) -> "GivenLatent | None":
        """Take a latent from its source.

        Args:
            structure, dynamics: source of the latent that is given, and None for the other one: both latents, of which
                one is taken; that one alone; a file or a list of files; or a video (`as_video`). An array that has the
                shape of the latent is taken for the latent.
            batch_size: number of videos B; a single source serves all of them.
            transformer: the network that is to sample the other latent.
            reader: reads or encodes the latents of a file or a video, on the sampling's device.

        Returns:
            What is given; None if nothing is.

        Raises:
            UserError: if both are given, the transformer was not trained for it, or number, shape or values do not fit.
            TypeError: if the source is none of these.
        """
        if structure is not None and dynamics is not None:
            raise UserError("structure and dynamics are both given: there is nothing left to sample")
        if structure is None and dynamics is None:
            return None
        name, source = ("dynamics", dynamics) if structure is None else ("structure", structure)
        if not transformer.config["independent_times"]:
            raise UserError(
                f"{name} is given, but the transformer was not trained with independent_times and knows both latents "
                "at one noise level only: train it with --objective.independent_times true"
            )
        shapes = dict(zip(NAMES, (transformer.layout.structure_shape, transformer.layout.dynamics_shape), strict=True))
        values = _take(name, source, batch_size, shapes[name], reader).to(reader.device)
        both = {other: values.new_zeros(len(values), *shape) for other, shape in shapes.items()} | {name: values}
        num_frames = 0 if name == "structure" else transformer.layout.dynamics_shape[1]
        return cls.of(VidTwinLatents(**both), name == "structure", num_frames, transformer)

    @property
    def is_complete(self) -> dict[str, bool]:
        """By the name of a latent, whether all of it is given."""
        return {"structure": self.has_structure, "dynamics": self.num_frames == self.latents.dynamics.shape[2]}

    def into_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Replace the given tokens in (B, N, D)."""
        return torch.where(self.is_given, self.tokens, tokens)

    def times(self, timestep: torch.Tensor) -> torch.Tensor:
        """Times (2,) or (1 + G,), as `given_times`: 0 for what is given, `timestep` for the rest."""
        return torch.stack([torch.zeros_like(timestep) if given else timestep for given in self.given_times])

    def into_latents(self, latents: VidTwinLatents) -> VidTwinLatents:
        """Replace what is given in sampled latents, bit for bit."""
        known, sampled = self.latents.dynamics[:, :, : self.num_frames], latents.dynamics[:, :, self.num_frames :]
        dynamics = torch.cat([known, sampled], dim=2)  # (B, d_D, F, w_D + h_D)
        return VidTwinLatents(self.latents.structure if self.has_structure else latents.structure, dynamics)


class Denoiser:
    """The transformer with fixed conditions, as a function of tokens and time.

    Args:
        transformer: the network.
        labels: long (B,), on the device of the tokens.
        guidance: weights and interval of classifier-free guidance.
        given: what is not sampled; None samples both latents.
    """

    def __init__(
        self, transformer: VidTwinDiT, labels: torch.Tensor, guidance: Guidance, given: GivenLatent | None = None
    ):
        self._transformer, self._given = transformer, given
        null = torch.full_like(labels, transformer.config.num_classes)
        self._labels = {False: labels, True: torch.cat([labels, null])}  # (B,), (2 B,)
        self._is_structure = (transformer.layout.type_ids[:, None] == STRUCTURE).to(labels.device)  # (N, 1)
        self._set_guidance(guidance)

    def set_guidance_scale(self, scale: GuidanceScale) -> None:
        """Change the guidance weights of the calls that follow."""
        if scale is not self._guidance.scale:
            self._set_guidance(replace(self._guidance, scale=scale))

    def _set_guidance(self, guidance: Guidance) -> None:
        self._guidance = guidance
        self._weights = torch.where(self._is_structure, *guidance.weights)  # (N, 1)
        sampled = [weight for name, weight in zip(NAMES, guidance.weights, strict=True) if not self._is_given(name)]
        self._has_guidance = any(weight != 1 for weight in sampled)

    def is_guided(self, timestep: torch.Tensor | float) -> bool:
        """Whether a call at this time, a number on the CPU, evaluates the null class, too."""
        return self._has_guidance and self._guidance.covers(float(timestep))

    def flops(self, tokens: torch.Tensor, guided: bool) -> int:
        """FLOPs of a call with tokens of this shape."""
        return count_flops(self._transformer, *self._arguments(tokens, torch.zeros(()), guided))

    def __call__(self, tokens: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The prediction (B, N, D), in float32, for tokens (B, N, D) at a time (), which lies on the CPU."""
        guided = self.is_guided(timestep)
        prediction = self._transformer(*self._arguments(tokens, timestep, guided)).sample.float()
        if not guided:
            return prediction  # (B, N, D)
        conditional, null = prediction.chunk(2)  # 2 x (B, N, D)
        return null + self._weights * (conditional - null)

    def with_given(self, tokens: torch.Tensor) -> torch.Tensor:
        """Replace the tokens of what is given, if anything is, in (B, N, D)."""
        return tokens if self._given is None else self._given.into_tokens(tokens)

    def _arguments(
        self, tokens: torch.Tensor, timestep: torch.Tensor, guided: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The arguments of the transformer; with guidance the batch is repeated, with the null class last."""
        labels = self._labels[guided]  # (B or 2 B,)
        inputs = self.with_given(tokens).to(self._transformer.dtype)  # (B, N, D)
        inputs = inputs.repeat(len(labels) // len(tokens), 1, 1)  # (B or 2 B, N, D)
        # Filled in there rather than copied there, which would wait for the device.
        timestep = torch.full((), timestep.item(), dtype=timestep.dtype, device=tokens.device)
        if self._given is not None:
            timestep = self._given.times(timestep)  # (2 or 1 + G,)
        return inputs, timestep.expand(len(labels), *timestep.shape), labels

    def _is_given(self, name: str) -> bool:
        return self._given is not None and self._given.is_complete[name]


@torch.no_grad()
def read_latents(
    path: str | Path,
    vae: AutoencoderVidTwin,
    clip_fps: float | None = 8.0,
    clip_start: float = 0.0,
    device: torch.device | None = None,
) -> VidTwinLatents:
    """Read latents from a file, or encode a clip of a video file.

    Args:
        path: a .safetensors file that `VidTwinLatents.save` wrote; or a video, of which one clip is encoded, its centre
            square at the size of the model.
        vae: the autoencoder; it encodes without dropout, whatever mode it is in.
        clip_fps: frames that the clip takes per second of the video; None takes every frame.
        clip_start: second of the video at which the clip starts.
        device: where to encode; that of the autoencoder by default.

    Returns:
        Latents as stored, or the posterior mean of the clip (B = 1).

    Raises:
        MissingFileError: if there is no such file.
        UserError: if a .safetensors file holds something else, or the rate or the start does not fit.
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
    return _encode(vae, to_video(frames.to(device or vae.device)))


@torch.no_grad()
def _encode(vae: AutoencoderVidTwin, video: torch.Tensor) -> VidTwinLatents:
    """Posterior means of clips (B, 3, F, S, S), without dropout."""
    was_training = vae.training
    try:
        return vae.eval().encode(video.to(vae.dtype)).latent_dist.mode()
    finally:
        vae.train(was_training)


@dataclass(frozen=True)
class LatentReader:
    """Reads latents from files, and encodes videos.

    Attributes:
        vae: the autoencoder that encodes a video.
        clip_fps, clip_start: rate and start of the clip of a video file, as in `read_latents`.
        device: where to encode.
    """

    vae: AutoencoderVidTwin
    clip_fps: float | None
    clip_start: float
    device: torch.device

    def from_file(self, path: str | Path) -> VidTwinLatents:
        """As `read_latents`, on the device."""
        return read_latents(path, self.vae, self.clip_fps, self.clip_start, self.device).to(self.device)

    def from_video(self, video: torch.Tensor) -> VidTwinLatents:
        """Posterior means of clips float (B, 3, F, S, S) in [-1, 1], on any device."""
        return _encode(self.vae, video.to(self.device))


def _take(
    name: str,
    source: LatentSource,
    batch_size: int,
    shape: tuple[int, ...],
    reader: LatentReader,
) -> torch.Tensor:
    """One latent of each video, a copy in float32 (B, *shape), as of `GivenLatent.make`."""
    source = [source] if isinstance(source, str | Path) else getattr(source, "frames", source)
    source = source.tolist() if isinstance(source, np.ndarray) and source.dtype.kind == "U" else source
    if isinstance(source, list | tuple) and all(isinstance(path, str | Path) for path in source):
        if not source:
            raise UserError(f"{name} is an empty list: give one file, or one for each of {batch_size} videos")
        in_file = {path: reader.from_file(path) for path in dict.fromkeys(source)}
        source = VidTwinLatents.cat([in_file[path] for path in source])
    is_array = isinstance(source, torch.Tensor) or (isinstance(source, np.ndarray) and source.dtype.kind in "fiu")
    if not isinstance(source, VidTwinLatents) and not (is_array and source.shape[1:] == shape):
        video = as_video(source, reader.vae.video_shape)
        if video is None and not is_array:
            raise TypeError(
                f"{name} must be VidTwinLatents, a tensor, a file or a list of files, got {describe(source)}; {FORMS}"
            )
        source = source if video is None else reader.from_video(video)
    values = torch.as_tensor(getattr(source, name) if isinstance(source, VidTwinLatents) else source)
    if values.shape[1:] != shape or len(values) not in (1, batch_size):
        raise UserError(
            f"{name} must be (B, {', '.join(map(str, shape))}) with B = 1 or {batch_size}, one for all videos or one "
            f"per video, got {tuple(values.shape)} of {values.dtype}; {FORMS}, with T, H, W here "
            f"{reader.vae.video_shape[1:]}"
        )
    if not values.isfinite().all():
        raise UserError(f"{name} holds NaN or infinity")
    return values.detach().float().expand(batch_size, *shape).clone()


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
