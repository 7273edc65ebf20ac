"""Shifting one clip so that what stands still in it lies where it lies in another clip of the same place."""

import torch
from torch.nn import functional as F

WINDOW = 7  # pixels over which the texture's own level is averaged
CONTRAST = 1.0  # times the median: stronger edges count no more, so that a wall outweighs the people before it


def texture(clip: torch.Tensor) -> torch.Tensor:
    """What stands still in a clip, without its broad shades and strong edges.

    Args:
        clip: uint8 (T, H, W, 3), H and W at least 4.

    Returns:
        float32 (H, W): the median over time in grey, less its surroundings, clamped to +-`CONTRAST` times the median of
        its absolute values.
    """
    grey = clip.median(dim=0).values.float().mean(dim=2)[None, None]  # (1, 1, H, W)
    padded = F.pad(grey, [WINDOW // 2] * 4, mode="replicate")
    grain = (grey - F.avg_pool2d(padded, WINDOW, stride=1))[0, 0]
    limit = CONTRAST * grain.abs().median()
    return grain.clamp(-limit, limit)


def still_shift(clip: torch.Tensor, other: torch.Tensor, most: int) -> tuple[int, int]:
    """How many pixels down and right a clip is to be moved so that its still parts meet those of another clip.

    Of all shifts the one with the least mean square of the difference of the two textures where they overlap; none
    where no shift is better than that.

    Args:
        clip, other: uint8 (T, H, W, 3) of one size.
        most: largest shift along either axis, below H / 2 and W / 2.
    """
    one, two = texture(other), texture(clip)
    size = [2 * side for side in one.shape]

    def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(a, size) * torch.fft.rfft2(b, size).conj(), size)

    everywhere = torch.ones_like(one)
    overlap = correlation(everywhere, everywhere)
    squares = correlation(one.square(), everywhere) + correlation(everywhere, two.square()) - 2 * correlation(one, two)
    shifts = torch.arange(-most, most + 1)
    errors = squares[shifts][:, shifts] / overlap[shifts][:, shifts]
    if not errors.min() < errors[most, most]:
        return 0, 0
    down, right = divmod(int(errors.argmin()), len(shifts))
    return down - most, right - most


def aligned(clip: torch.Tensor, other: torch.Tensor, share: float) -> torch.Tensor:
    """A clip moved as `still_shift` says; what comes in repeats its edge.

    Args:
        clip, other: uint8 (T, H, W, 3) of one size.
        share: largest shift along either axis, as a share of the shorter side, below 1/2.

    Returns:
        uint8 (T, H, W, 3).
    """
    height, width = clip.shape[1:3]
    down, right = still_shift(clip, other, int(share * min(height, width)))
    rows = (torch.arange(height) - down).clamp(0, height - 1)
    columns = (torch.arange(width) - right).clamp(0, width - 1)
    return clip[:, rows][:, :, columns]
