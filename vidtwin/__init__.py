"""VidTwin Diffusion: the public names of all packages in one place, and the command `vidtwin`."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from autoencoder.common.lazy import hand_on, offer

if TYPE_CHECKING:
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
    from pipelines.folders import pretrained
    from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

__all__ = [
    "I3D",
    "AutoencoderVidTwin",
    "FrechetVideoDistance",
    "KernelVideoDistance",
    "VidTwinDiT",
    "VidTwinDiffusionPipeline",
    "VidTwinLatents",
    "VidTwinPosterior",
    "VideoLPIPS",
    "VideoPSNR",
    "VideoSSIM",
    "__version__",
    "pretrained",
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
        "I3D": "autoencoder.metrics.i3d",
        "FrechetVideoDistance": "autoencoder.metrics.frechet",
        "KernelVideoDistance": "autoencoder.metrics.kernel",
        "VideoLPIPS": "autoencoder.metrics.lpips",
        "VideoPSNR": "autoencoder.metrics.reconstruction",
        "VideoSSIM": "autoencoder.metrics.reconstruction",
        "VidTwinDiT": "generator.dit",
        "VidTwinDiffusionPipeline": "pipelines.pipeline_vidtwin",
        "pretrained": "pipelines.folders",
    },
)

# So that `import vidtwin` is enough for `DiffusionPipeline.from_pretrained`.
offer("diffusers", "VidTwinDiffusionPipeline", "pipelines.pipeline_vidtwin")
