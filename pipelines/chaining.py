"""Videos longer than a clip: a chain of clips, each of which goes on from the end of the one before.

The dynamics of a clip's first frames are those of the last frames of the clip before it, and the rest is sampled given
them and the structure. The latents are taken as they are: what the autoencoder makes of a frame hardly depends on its
place in the clip, so that decoding and encoding it again would lose more (benchmarks/results/README.md).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from autoencoder.common.errors import UserError
from autoencoder.latents import Generators, VidTwinLatents
from generator.dit import VidTwinDiT
from pipelines.arguments import check_count, describe, plain
from pipelines.conditioning import GivenLatent


@dataclass(frozen=True)
class Windows:
    """How clips make up a video.

    Attributes:
        num_frames: frames of the video.
        clip_frames: frames F of a clip.
        overlap: frames that a clip shares with the one before.
    """

    num_frames: int
    clip_frames: int
    overlap: int

    @classmethod
    def make(cls, num_frames: Any, overlap: Any, transformer: VidTwinDiT) -> "Windows":
        """Check the arguments of a pipeline.

        Args:
            num_frames: frames of the video; None stands for those of a clip.
            overlap: frames that clips share; None stands for half a clip, in whole dynamics tokens.
            transformer: makes the clips.

        Raises:
            UserError: if one does not fit, or the video is longer than a clip of a transformer that was not trained to
                go on from another one.
        """
        clip_frames, patch = transformer.layout.dynamics_shape[1], transformer.layout.dynamics_patch_size[0]
        num_frames = clip_frames if num_frames is None else check_count("num_frames", num_frames)
        if num_frames > sys.maxsize:
            raise UserError(f"num_frames must be at most {sys.maxsize}, got {num_frames}")
        is_long = num_frames > clip_frames
        if is_long and not transformer.config["frame_times"]:
            raise UserError(
                f"num_frames={num_frames} is longer than a clip of {clip_frames} frames, and the transformer was not "
                "trained to go on from another clip: train it with --objective.history_share 0.5"
            )
        if is_long and patch >= clip_frames:
            raise UserError(
                f"num_frames={num_frames} is longer than a clip, and one dynamics token holds all {clip_frames} frames "
                "of one: train with a smaller --model.dynamics_patch_size"
            )
        if overlap is None:
            return cls(num_frames, clip_frames, max(1, clip_frames // 2 // patch) * patch)
        overlap = check_count("overlap", overlap)
        if overlap % patch or overlap >= clip_frames:
            fitting = ", ".join(map(str, range(patch, clip_frames, patch))) or "none"
            raise UserError(
                f"overlap={overlap}: clips of {clip_frames} frames, {patch} of which share a dynamics token and its "
                f"time, can go on from {fitting}"
            )
        return cls(num_frames, clip_frames, overlap)

    def __len__(self) -> int:
        """Number of clips."""
        if self.num_frames <= self.clip_frames:
            return 1
        return 1 - (self.clip_frames - self.num_frames) // (self.clip_frames - self.overlap)

    def new(self, index: int) -> slice:
        """The frames of clip `index` that no clip before it holds and the video has."""
        first = self.overlap if index else 0
        start = index * (self.clip_frames - self.overlap)
        return slice(first, min(self.clip_frames, self.num_frames - start))


@dataclass(frozen=True)
class Plan:
    """A call of the pipeline, checked.

    Attributes:
        call: the arguments by name, with `tensor_inputs`, those that the callback is given; its `guidance_scale` is the
            current one.
        windows: the clips.
        strength: share of the steps in which a structure is drawn again.
        labels: long (B,), on the device of the tokens.
        generator: draws all noise.
        given: what is given of the first clip.
        noise: (B, N, D), of the first clip.
        steps: further arguments of the scheduler's steps.
    """

    call: SimpleNamespace
    windows: Windows
    strength: float
    labels: torch.Tensor
    generator: Generators
    given: GivenLatent | None
    noise: torch.Tensor
    steps: dict[str, Any]


def check_strength(strength: Any) -> float:
    """Check `structure_strength`, and return it as a float.

    Raises:
        UserError: if it is no number in [0, 1].
    """
    number = plain(strength)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
        raise UserError(f"structure_strength must lie in [0, 1], got {describe(strength)}")
    return float(number)


def history(latents: VidTwinLatents, overlap: int, transformer: VidTwinDiT) -> GivenLatent:
    """What the next clip is given of the clip before it: its structure, and the dynamics of its last frames.

    Args:
        latents: of the clip before, in the autoencoder's scale.
        overlap: frames to go on from.
        transformer: samples the next clip.
    """
    num_frames = latents.dynamics.shape[2]
    last = latents.dynamics[:, :, num_frames - overlap :]  # (B, d_D, overlap, w_D + h_D)
    dynamics = F.pad(last, (0, 0, 0, num_frames - overlap))  # (B, d_D, F, w_D + h_D)
    return GivenLatent.of(VidTwinLatents(latents.structure, dynamics), True, overlap, transformer)


def joined(parts: Sequence[Any]) -> Any:
    """Frames of one clip after those of another, of `output_type` "np", "pt" or "pil"; a single part stays as it is."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis=1)
    if isinstance(parts[0], torch.Tensor):
        return torch.cat(parts, dim=1)
    return [[image for part in video for image in part] for video in zip(*parts, strict=True)]
