"""Converting videos in common layouts to the autoencoder's input."""

from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from autoencoder.common.errors import UserError

FORMS = (
    "a video is uint8 (B, T, H, W, 3), the frames of an output (float in [0, 1], or images), or float (B, 3, T, H, W) "
    "in [-1, 1]"
)
OVERSHOOT = 0.5  # a decoder's output goes beyond [-1, 1] by less
ROUNDING = 1e-3


def as_video(source: Any, video_shape: tuple[int, int, int, int]) -> torch.Tensor | None:
    """Convert clips to the autoencoder's input; their shape decides on their layout and range.

    Args:
        source: an array, a tensor, or a list of them, of shape
            (B, 3, T, H, W), float in [-1, 1], which wins if T is 3 and (B, T, 3, H, W) would fit as well;
            (B, T, H, W, 3), float in [0, 1], as `out.frames` of output_type="np";
            (B, T, 3, H, W), float in [0, 1], as of output_type="pt";
            any of these as uint8, in [0, 255]; one clip without the B; or a list of images, or of such lists.
        video_shape: (3, T, H, W) of the autoencoder.

    Returns:
        float32 (B, 3, T, H, W) in [-1, 1], on the device of the source; None if no layout fits.

    Raises:
        UserError: if a layout fits, but the values are out of its range.
    """
    values = _stacked(source)
    if values is None or not (values.is_floating_point() or values.dtype == torch.uint8):
        return None
    values = values[None] if values.ndim == 4 else values  # (B, ...)
    channels, frames, height, width = video_shape
    layouts = {
        "b c t h w": (channels, frames, height, width),
        "b t h w c": (frames, height, width, channels),
        "b t c h w": (frames, channels, height, width),
    }
    for layout, shape in layouts.items():
        if tuple(values.shape[1:]) == shape:
            video = rearrange(values, f"{layout} -> b c t h w")  # (B, 3, T, H, W)
            if values.dtype == torch.uint8:
                return video.float() / 127.5 - 1
            if layout == "b c t h w":
                return _in_range(video, -1.0, OVERSHOOT)
            return 2 * _in_range(video, 0.0, ROUNDING) - 1
    return None


def _in_range(video: torch.Tensor, low: float, slack: float) -> torch.Tensor:
    """Clamp to [low, 1] in float32; refuse values that lie outside by more than `slack`."""
    least, most = video.min().item(), video.max().item()
    if not (least >= low - slack and most <= 1 + slack):
        raise UserError(
            f"a float video of shape {tuple(video.shape)} must be in [{low:.0f}, 1], its values go from {least:.4g} to "
            f"{most:.4g}"
        )
    return video.float().clamp(low, 1.0)


def _stacked(source: Any) -> torch.Tensor | None:
    """One tensor of an array, a tensor, images, or equally large ones of these in lists; None for anything else."""
    if isinstance(source, Image.Image):
        return torch.from_numpy(np.array(source.convert("RGB")))  # (H, W, 3)
    if isinstance(source, np.ndarray):
        return torch.from_numpy(source) if source.dtype.kind in "fiu" else None
    if not isinstance(source, list | tuple) or not source:
        return source.detach() if isinstance(source, torch.Tensor) else None
    parts = [_stacked(part) for part in source]
    if any(part is None for part in parts) or len({(part.shape, part.dtype, part.device) for part in parts}) > 1:
        return None
    return torch.stack(parts)
