"""PSNR and SSIM per frame, after the VidTok evaluation protocol: the plain mean over all frames."""

import torch
from einops import rearrange, reduce
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.functional.image import structural_similarity_index_measure

from autoencoder.common.errors import UserError

PSNR_EPS = 1e-8  # identical frames score 80 dB, not infinity
SSIM_BORDER = 5  # of the 11 x 11 window: only places where it lies inside the frame count
SSIM_REFERENCE_SIDE = 256


class FrameMetric(Metric):
    """Mean over frames of a value per frame, in fp32 whatever the autocast; exact when summed over unequal shares.

    Subclasses define `per_frame`.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = True

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_frames", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: torch.Tensor, target: torch.Tensor) -> None:
        """Add clips.

        Args:
            prediction, target: float (B, 3, T, H, W) in [0, 1].

        Raises:
            ValueError: if the shapes differ or are not of that form, or values lie outside [0, 1].
        """
        if prediction.shape != target.shape or prediction.ndim != 5 or prediction.shape[1] != 3:
            raise UserError(
                "prediction and target must both be (B, 3, T, H, W), got "
                f"{tuple(prediction.shape)} and {tuple(target.shape)}"
            )
        for name, video in (("prediction", prediction), ("target", target)):
            low, high = video.min().item(), video.max().item()
            if not (low >= 0 and high <= 1):
                raise ValueError(f"{name} must lie in [0, 1], got [{low:.4g}, {high:.4g}]")
        frames = (rearrange(video, "b c t h w -> (b t) c h w").float() for video in (prediction, target))
        with torch.autocast(prediction.device.type, enabled=False):  # a variance in bf16 would be rounding noise
            values = self.per_frame(*frames)  # (B T,)
        self.total += values.double().sum()
        self.num_frames += values.numel()

    def compute(self) -> torch.Tensor:
        """The mean over all frames, float64.

        Raises:
            ValueError: if there were none.
        """
        if self.num_frames == 0:
            raise ValueError(f"{type(self).__name__} has seen no frames")
        return self.total / self.num_frames

    def per_frame(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Frames float32 (N, 3, H, W) in [0, 1] -> (N,)."""
        raise NotImplementedError


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
