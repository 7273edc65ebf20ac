"""Sampling videos: the pipeline over both stages."""

from typing import TYPE_CHECKING

from autoencoder.common.lazy import hand_on, offer

if TYPE_CHECKING:
    from pipelines.folders import pretrained
    from pipelines.output import save_video
    from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

__all__ = ["VidTwinDiffusionPipeline", "pretrained", "save_video"]

__getattr__, __dir__ = hand_on(
    __name__,
    {
        "VidTwinDiffusionPipeline": "pipelines.pipeline_vidtwin",
        "pretrained": "pipelines.folders",
        "save_video": "pipelines.output",
    },
)

# So that `import pipelines` is enough for `DiffusionPipeline.from_pretrained`.
offer("diffusers", "VidTwinDiffusionPipeline", "pipelines.pipeline_vidtwin")
