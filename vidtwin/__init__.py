"""VidTwin Diffusion: the public names of all packages in one place, and the command `vidtwin`."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from autoencoder.common.lazy import hand_on, offer

if TYPE_CHECKING:
    from autoencoder.common.errors import UserError
    from autoencoder.data import UCF101, ClipDataset, Shapes, Sprites, UnreadableVideo, VideoFolder, to_video
    from autoencoder.latents import VidTwinLatents, VidTwinPosterior
    from autoencoder.metrics import (
        I3D,
        FrechetVideoDistance,
        KernelVideoDistance,
        VideoLPIPS,
        VideoPSNR,
        VideoSSIM,
    )
    from autoencoder.vidtwin import AutoencoderVidTwin
    from generator.dit import VidTwinDiT
    from generator.tokens import TokenLayout
    from pipelines.folders import pretrained
    from pipelines.output import save_video
    from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

__all__ = [
    "I3D",
    "UCF101",
    "AutoencoderVidTwin",
    "ClipDataset",
    "FrechetVideoDistance",
    "KernelVideoDistance",
    "Shapes",
    "Sprites",
    "TokenLayout",
    "UnreadableVideo",
    "UserError",
    "VidTwinDiT",
    "VidTwinDiffusionPipeline",
    "VidTwinLatents",
    "VidTwinPosterior",
    "VideoFolder",
    "VideoLPIPS",
    "VideoPSNR",
    "VideoSSIM",
    "__version__",
    "pretrained",
    "save_video",
    "to_video",
]

try:
    __version__ = version("vidtwin")  # of pyproject.toml, as it was installed
except PackageNotFoundError:  # a clone on the path, not installed
    __version__ = "0+unknown"

__getattr__, __dir__ = hand_on(
    __name__,
    {
        "AutoencoderVidTwin": "autoencoder.vidtwin",
        "VidTwinLatents": "autoencoder.latents",
        "VidTwinPosterior": "autoencoder.latents",
        "UserError": "autoencoder.common.errors",
        "UCF101": "autoencoder.data.ucf101.dataset",
        "ClipDataset": "autoencoder.data.clips",
        "Shapes": "autoencoder.data.shapes",
        "Sprites": "autoencoder.data.sprites",
        "UnreadableVideo": "autoencoder.data.frame_index",
        "VideoFolder": "autoencoder.data.folder",
        "to_video": "autoencoder.data.clips",
        "I3D": "autoencoder.metrics.i3d",
        "FrechetVideoDistance": "autoencoder.metrics.frechet",
        "KernelVideoDistance": "autoencoder.metrics.kernel",
        "VideoLPIPS": "autoencoder.metrics.lpips",
        "VideoPSNR": "autoencoder.metrics.reconstruction",
        "VideoSSIM": "autoencoder.metrics.reconstruction",
        "TokenLayout": "generator.tokens",
        "VidTwinDiT": "generator.dit",
        "VidTwinDiffusionPipeline": "pipelines.pipeline_vidtwin",
        "pretrained": "pipelines.folders",
        "save_video": "pipelines.output",
    },
)

# So that `import vidtwin` is enough for `DiffusionPipeline.from_pretrained`.
offer("diffusers", "VidTwinDiffusionPipeline", "pipelines.pipeline_vidtwin")
