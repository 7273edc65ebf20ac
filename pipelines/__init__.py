"""Sampling videos: the pipeline over both stages."""

from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

__all__ = ["VidTwinDiffusionPipeline"]
