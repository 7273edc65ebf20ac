"""PSNR and SSIM per frame, after the VidTok evaluation protocol: the plain mean over all frames."""

import torch
from einops import rearrange, reduce
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.functional.image import structural_similarity_index_measure

from autoencoder.common.errors import UserError

PSNR_EPS = 1e-8  # identical frames score 80 dB, not infinity
SSIM_BORDER = 5  # half of the 11 x 11 window: only positions where it lies inside the frame count
SSIM_REFERENCE_SIDE = 256
AT_ONCE = ("cpu",)  # devices whose values the host sees without waiting


class FrameMetric(Metric):
    """Mean of a value per frame over all frames of all processes, computed in fp32 whatever the autocast.

    On a GPU `update` does not wait for the device, so values outside [0, 1] are refused only by `compute`. Subclasses
    define `per_frame`.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = True

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_frames", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        for name, reduction in (("lowest", "min"), ("highest", "max")):  # of predictions and targets, with 0.5
            self.add_state(name, torch.full((2,), 0.5), dist_reduce_fx=reduction)

    def update(self, prediction: torch.Tensor, target: torch.Tensor) -> None:
        """Add clips.

        Args:
            prediction: float (B, 3, T, H, W) in [0, 1].
            target: likewise, of the same shape.

        Raises:
            UserError: if the shapes differ or are not of that form.
            ValueError: on the CPU, if values lie outside [0, 1].
        """
        self._add(self.frame_values(prediction, target))

    def frame_values(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The values (B T,) of the frames of clips, without adding them; arguments and errors as of `update`."""
        if prediction.shape != target.shape or prediction.ndim != 5 or prediction.shape[1] != 3:
            raise UserError(
                "prediction and target must both be (B, 3, T, H, W), got "
                f"{tuple(prediction.shape)} and {tuple(target.shape)}"
            )
        videos = prediction.detach(), target.detach()
        lowest, highest = (torch.stack([end(video) for video in videos]).float() for end in (torch.min, torch.max))
        if prediction.device.type in AT_ONCE:
            _check_range(lowest, highest)
        else:
            self.lowest = torch.minimum(self.lowest, lowest)
            self.highest = torch.maximum(self.highest, highest)
        frames = (rearrange(video, "b c t h w -> (b t) c h w").float() for video in (prediction, target))
        with torch.autocast(prediction.device.type, enabled=False):  # a variance in bf16 would be rounding noise
            return self.per_frame(*frames)  # (B T,)

    def update_values(self, values: torch.Tensor) -> None:
        """Add frames by their values (N,), as `frame_values` gives them."""
        self._computed = None
        self._update_count += 1
        self._add(values)

    def _add(self, values: torch.Tensor) -> None:
        self.total += values.double().sum()
        self.num_frames += values.numel()

    def compute(self) -> torch.Tensor:
        """The mean over all frames, float64.

        Raises:
            ValueError: if there were no frames, or values lie outside [0, 1].
        """
        if int(self.num_frames) == 0:
            raise ValueError(f"{type(self).__name__} has seen no frames")
        _check_range(self.lowest, self.highest)
        return self.total / self.num_frames

    def per_frame(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The value of each frame: twice float32 (N, 3, H, W) in [0, 1] -> (N,)."""
        raise NotImplementedError


def _check_range(lowest: torch.Tensor, highest: torch.Tensor) -> None:
    """Refuse values outside [0, 1]; both arguments are (2,), of prediction and target."""
    ranges = torch.stack([lowest, highest], dim=1).tolist()
    for name, (low, high) in zip(("prediction", "target"), ranges, strict=True):
        if not (low >= 0 and high <= 1):  # also where there is a NaN
            raise ValueError(f"{name} must lie in [0, 1], got [{low:.4g}, {high:.4g}]")


class VideoPSNR(FrameMetric):
    """Peak signal-to-noise ratio per frame, in dB: -10 log10(MSE + 1e-8)."""

    def per_frame(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        error = reduce((prediction - target).square(), "n c h w -> n", "mean")
        return -10 * torch.log10(error + PSNR_EPS)


class VideoSSIM(FrameMetric):
    """Structural similarity per frame: 11 x 11 Gaussian window of sigma 1.5, inside the frame only, mean over RGB.

    Frames whose short side is about twice 256 or more are first averaged over blocks of round(side / 256).
    """

    def per_frame(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        height, width = prediction.shape[-2:]
        factor = max(1, round(min(height, width) / SSIM_REFERENCE_SIDE))
        if min(height, width) // factor <= 2 * SSIM_BORDER:
            raise UserError(f"SSIM needs frames of at least 11 x 11, got {height} x {width}")
        if factor > 1:
            prediction, target = (F.avg_pool2d(frames, factor) for frames in (prediction, target))
        _, image = structural_similarity_index_measure(
            prediction, target, data_range=1.0, reduction="none", return_full_image=True
        )
        inside = slice(SSIM_BORDER, -SSIM_BORDER)
        return reduce(image[..., inside, inside], "n c h w -> n", "mean")


def clips_psnr(prediction: torch.Tensor, target: torch.Tensor) -> float:
    """PSNR of clips in dB, mean over all frames: 80 if they are equal.

    Args:
        prediction, target: uint8 (B, T, H, W, 3), on any device.
    """
    metric = VideoPSNR()
    metric.update(*(rearrange(clips.cpu(), "b t h w c -> b c t h w") / 255 for clips in (prediction, target)))
    return metric.compute().item()
