"""Changed views of a clip: the same motion in other colours, out of focus, at another scale."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

MIN_BLUR = 0.1  # standard deviation in pixels, below which a blur changes nothing


@dataclass(frozen=True)
class ViewChange:
    """Draws changed views of clips.

    Every change is the same for all frames of a clip, so that what moves moves as before.

    Args:
        colour: share of a random linear map in the colours, 0 to 1; the rest are the clip's own. At 1 a view tells
            nothing of them: were it a little less, a latent read from views would still hold them.
        blur: largest standard deviation of a Gaussian blur, in pixels.
        scale: either axis is scaled about the middle by its own factor, from 1 - scale to 1 + scale; below 1.
        shift: the picture is moved along either axis by up to this share of its side; what comes in repeats its edge.
    """

    colour: float
    blur: float
    scale: float
    shift: float = 0.0

    def __call__(self, video: torch.Tensor, rng: np.random.Generator, strength: float = 1.0) -> torch.Tensor:
        """A changed view.

        Args:
            video: uint8 (T, H, W, 3).
            rng: draws the change; it draws the same numbers whatever is changed.
            strength: factor of all changes, 0 to 1.

        Returns:
            uint8 (T, H, W, 3).
        """
        mixing, shift = rng.normal(size=(3, 3)), rng.uniform(-0.25, 0.25, size=3)
        deviation, scales, shifts = rng.uniform(), rng.uniform(-1, 1, size=2), rng.uniform(-1, 1, size=2)
        frames = video.permute(0, 3, 1, 2).float() / 255  # (T, 3, H, W)
        if self.colour:
            frames = _mixed(frames, mixing, shift, strength * self.colour)
        if deviation * strength * self.blur > MIN_BLUR:
            frames = _blurred(frames, deviation * strength * self.blur)
        if self.scale or self.shift:
            frames = _placed(frames, 1 + strength * self.scale * scales, strength * self.shift * shifts)
        return (255 * frames.clamp(0, 1)).round().byte().permute(0, 2, 3, 1)


def _mixed(frames: torch.Tensor, mixing: np.ndarray, shift: np.ndarray, amount: float) -> torch.Tensor:
    """Colours c around grey, (T, 3, H, W), become (1 - amount) c + amount (mixing c / sqrt(3) + shift)."""
    matrix = torch.from_numpy((1 - amount) * np.eye(3) + amount * mixing / np.sqrt(3)).float()
    offset = torch.from_numpy(amount * shift).float().view(3, 1, 1)
    return torch.einsum("dc,tchw->tdhw", matrix, frames - 0.5) + offset + 0.5


def _blurred(frames: torch.Tensor, deviation: float) -> torch.Tensor:
    size = min(2 * int(np.ceil(3 * deviation)) + 1, 2 * min(frames.shape[-2:]) - 1)  # the padding is reflected
    return gaussian_blur(frames, [size, size], [deviation, deviation])


def _placed(frames: torch.Tensor, scales: np.ndarray, shifts: np.ndarray) -> torch.Tensor:
    """Scale about the middle and shift, by factors and by shares of the side, each of (height, width).

    What lies outside of the frame repeats its edge.
    """
    (height, width), (down, right) = scales, shifts
    theta = torch.tensor([[1 / width, 0, -2 * right / width], [0, 1 / height, -2 * down / height]]).float()
    grid = F.affine_grid(theta.expand(len(frames), 2, 3), list(frames.shape), align_corners=False)
    return F.grid_sample(frames, grid, padding_mode="border", align_corners=False)
