"""Sampling videos: the pipeline over both stages."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from autoencoder.common.lazy import hand_on

if TYPE_CHECKING:
    from pipelines.output import save_video
    from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

__all__ = ["VidTwinDiffusionPipeline", "save_video"]

__getattr__, __dir__ = hand_on(
    __name__, {"VidTwinDiffusionPipeline": "pipelines.pipeline_vidtwin", "save_video": "pipelines.output"}
)

# `import pipelines` is to be enough for `DiffusionPipeline.from_pretrained`, to which the module makes its class known.
# While Python looks for a command (`python -m pipelines.sample`) nothing is imported: its --help is to be quick.
if sys.argv[:1] != ["-m"]:
    import_module("pipelines.pipeline_vidtwin")
