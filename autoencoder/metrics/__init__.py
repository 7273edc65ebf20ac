"""Metrics of reconstruction and generation, as `torchmetrics.Metric` classes."""

from autoencoder.metrics.frechet import FrechetVideoDistance
from autoencoder.metrics.i3d import I3D
from autoencoder.metrics.kernel import KernelVideoDistance
from autoencoder.metrics.lpips import VideoLPIPS
from autoencoder.metrics.reconstruction import VideoPSNR, VideoSSIM

__all__ = ["I3D", "FrechetVideoDistance", "KernelVideoDistance", "VideoLPIPS", "VideoPSNR", "VideoSSIM"]
