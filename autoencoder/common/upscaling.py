"""Small videos enlarged for people to look at; those whose pixels were repeated are read back as they were."""

import math
import re

import numpy as np
import torch
from einops import reduce
from PIL import Image

from autoencoder.common.errors import UserError

UPSCALES = ("nearest", "bicubic", "none")
SHOWN_WIDTH = 256
REPEATED = re.compile(r"(\d{1,5}) x (\d{1,5}), shown at (\d{1,5}) x (\d{1,5}) \(nearest\)")


def upscaled(frames: np.ndarray, upscale: str, width: int = SHOWN_WIDTH) -> tuple[np.ndarray, str]:
    """Enlarge frames by the smallest whole factor that makes them at least `width` pixels wide.

    It is even where a side is odd, because mp4 takes no odd one.

    Args:
        frames: uint8 (T, H, W, 3).
        upscale: "nearest" repeats pixels, "bicubic" smooths them, "none" leaves frames as they are.
        width: in pixels; frames as wide as that stay untouched.

    Returns:
        uint8 (T, k H, k W, 3), and what was done, such as "32 x 32, shown at 256 x 256 (nearest)": width, then height.

    Raises:
        UserError: if `upscale` is none of these.
    """
    if upscale not in UPSCALES:
        raise UserError(f"upscale={upscale!r} is none of {', '.join(UPSCALES)}")
    height, stored = frames.shape[1:3]
    factor = 1 if upscale == "none" else max(1, math.ceil(width / stored))
    if factor > 1 and (height % 2 or stored % 2):
        factor += factor % 2
    if factor == 1:
        return frames, f"{stored} x {height}"
    size, filter_ = (factor * stored, factor * height), Image.Resampling[upscale.upper()]
    enlarged = np.stack([np.asarray(Image.fromarray(frame).resize(size, filter_)) for frame in frames])
    return enlarged, f"{stored} x {height}, shown at {size[0]} x {size[1]} ({upscale})"


def repeats(note: str | None, width: int, height: int) -> int:
    """How often each pixel of a file is repeated in either direction, by the note of `upscaled` in its comment.

    Args:
        note: the file's comment; None where it has none.
        width, height: of the stored picture. Another size than the note's was changed since, and nothing is known.
    """
    if note is None or not (match := REPEATED.search(note)):
        return 1
    small_width, small_height, shown_width, shown_height = map(int, match.groups())
    factor = shown_width // max(1, small_width)
    fits = (shown_width, shown_height) == (width, height) == (factor * small_width, factor * small_height)
    return factor if fits else 1


def unrepeated(frames: torch.Tensor, times: int) -> torch.Tensor:
    """The frames whose pixels were repeated: the mean of each square, which an antialiased resize would smear.

    Args:
        frames: uint8 (..., k H, k W, 3).
        times: k, as `repeats` gives it.

    Returns:
        uint8 (..., H, W, 3).
    """
    if times == 1:
        return frames
    squares = "... (h y) (w x) c -> ... h w c"
    return reduce(frames.float(), squares, "mean", y=times, x=times).round().to(torch.uint8)  # (..., H, W, 3)
