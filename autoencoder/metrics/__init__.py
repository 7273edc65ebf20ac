"""Metrics of reconstruction and generation, as `torchmetrics.Metric` classes."""

from typing import TYPE_CHECKING

from autoencoder.common.lazy import hand_on

if TYPE_CHECKING:
    from autoencoder.metrics.frechet import FrechetVideoDistance
    from autoencoder.metrics.i3d import I3D
    from autoencoder.metrics.kernel import KernelVideoDistance
    from autoencoder.metrics.lpips import VideoLPIPS
    from autoencoder.metrics.reconstruction import VideoPSNR, VideoSSIM

__all__ = ["I3D", "FrechetVideoDistance", "KernelVideoDistance", "VideoLPIPS", "VideoPSNR", "VideoSSIM"]

__getattr__, __dir__ = hand_on(
    __name__,
    {
        "I3D": "autoencoder.metrics.i3d",
        "FrechetVideoDistance": "autoencoder.metrics.frechet",
        "KernelVideoDistance": "autoencoder.metrics.kernel",
        "VideoLPIPS": "autoencoder.metrics.lpips",
        "VideoPSNR": "autoencoder.metrics.reconstruction",
        "VideoSSIM": "autoencoder.metrics.reconstruction",
    },
)
