"""Sampling videos: the pipeline over both stages."""

from pipelines.output import save_video
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

__all__ = ["VidTwinDiffusionPipeline", "save_video"]
