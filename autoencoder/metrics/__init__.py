"""Metrics of reconstruction and generation, as `torchmetrics.Metric` classes."""

from autoencoder.metrics.reconstruction import VideoPSNR, VideoSSIM

__all__ = ["VideoPSNR", "VideoSSIM"]
