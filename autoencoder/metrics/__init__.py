"""Metrics of reconstruction and generation, as `torchmetrics.Metric` classes."""

from autoencoder.metrics.lpips import VideoLPIPS
from autoencoder.metrics.reconstruction import VideoPSNR, VideoSSIM

__all__ = ["VideoLPIPS", "VideoPSNR", "VideoSSIM"]
