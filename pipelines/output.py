"""The output of the pipeline, and saving it as files."""

import functools
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image

from autoencoder.common.cost import Cost
from autoencoder.common.errors import UserError
from autoencoder.data.video_io import as_frames, write_video
from autoencoder.latents import VidTwinLatents
from pipelines.grid import video_grid

FPS = 8.0  # of the clips that the presets train on


@dataclass
class PipelineCost:
    """Cost of a call of the pipeline.

    Attributes:
        sampling: all calls of the transformer, those for the null class included, and the scheduler.
        decoding: the autoencoder's decoder; None for `output_type="latent"`.

    Encoding a video for a given latent is not included.
    """

    sampling: Cost
    decoding: Cost | None

    def __add__(self, other: "PipelineCost") -> "PipelineCost":
        """The cost of one after the other."""
        both = None not in (self.decoding, other.decoding)
        return PipelineCost(self.sampling + other.sampling, self.decoding + other.decoding if both else None)

    def __str__(self) -> str:
        return f"sampling {self.sampling}" + ("" if self.decoding is None else f"; decoding {self.decoding}")


def sum_costs(costs: Iterable[PipelineCost]) -> PipelineCost:
    """The cost of all, one after the other; at least one."""
    return functools.reduce(operator.add, costs)


@dataclass
class VidTwinPipelineOutput(BaseOutput):
    """Result of the pipeline, classes in the order given and the videos of a class in a row.

    Attributes:
        frames: "np": float32 (B, T, H, W, 3) in [0, 1]; "pt": likewise (B, T, 3, H, W); "pil": a list of images per
            video; "latent": `VidTwinLatents` in the autoencoder's scale.
        cost: FLOPs, peak memory and seconds.
    """

    frames: np.ndarray | torch.Tensor | list[list[Image.Image]] | VidTwinLatents
    cost: PipelineCost

    def save(self, path: str | Path, fps: float = FPS, upscale: str = "nearest", grid: bool = False) -> list[Path]:
        """Write the videos to files, large enough to look at.

        Args:
            path: ends in .mp4, .gif or .webp. Of several videos, number i is written to "name-i.mp4".
            fps: frames per second, 0.01 to 1000; a GIF has at most 50.
            upscale: makes small videos at least 256 pixels wide: "nearest" repeats pixels, "bicubic" smooths them,
                "none" writes them as they are.
            grid: write all videos as one, in which they move side by side, numbered from 0.

        Returns:
            The files: one for every video, or that of the grid.

        Raises:
            UserError: if the ending, the rate or `upscale` does not fit, or the frames are latents.
        """
        if isinstance(self.frames, VidTwinLatents):
            raise UserError("frames are latents, of output_type='latent': decode them with pipe.vae.decode first")
        path, count = Path(path), len(self.frames)
        if grid:
            write_video(path, video_grid([as_frames(video) for video in self.frames], upscale=upscale), fps)
            return [path]
        numbers = [""] if count == 1 else [f"-{index:0{len(str(count - 1))}d}" for index in range(count)]
        paths = [path.with_name(f"{path.stem}{number}{path.suffix}") for number in numbers]
        for video, name in zip(self.frames, paths, strict=True):
            save_video(video, name, fps, upscale)
        return paths


def save_video(
    frames: np.ndarray | torch.Tensor | list[Image.Image],
    path: str | Path,
    fps: float = FPS,
    upscale: str = "nearest",
) -> str:
    """Write one video, such as `out.frames[0]`, as mp4, GIF or WebP by the ending of the path, to look at.

    Whatever reads the file as data takes repeated pixels back, as `ClipReader` does.

    Args:
        frames: (T, H, W, 3) or a tensor (T, 3, H, W), float in [0, 1] or uint8; or a list of images.
        path: ends in .mp4, .gif or .webp; missing folders are made.
        fps: frames per second, 0.01 to 1000; a GIF has at most 50.
        upscale: "nearest" or "bicubic" make a small video at least 256 pixels wide; "none" writes it as it is.

    Returns:
        Its size in words, such as "32 x 32, shown at 256 x 256 (nearest)".

    Raises:
        UserError: if the ending, shape, dtype, values, rate or `upscale` does not fit.
    """
    return write_video(path, frames, fps, upscale)
