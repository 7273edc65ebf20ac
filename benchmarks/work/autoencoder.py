"""The work of `python -m benchmarks.autoencoder`."""

import torch

from autoencoder import AutoencoderVidTwin
from autoencoder.common.seeding import generators
from autoencoder.training.losses import VidTwinLoss
from benchmarks.suite import Stage, preset_model


def clips(model: AutoencoderVidTwin, batch_size: int) -> tuple[torch.Tensor]:
    """Noise for a video (B, 3, F, H, W) in [-1, 1]."""
    return (torch.rand(batch_size, *model.video_shape) * 2 - 1,)


def loss(model: AutoencoderVidTwin, video: torch.Tensor) -> torch.Tensor:
    """Loss of stage one, with latents sampled from the posterior."""
    noise = generators(0, "benchmark", range(len(video)))
    reconstruction, posterior = model(video, sample_posterior=True, generator=noise)
    return VidTwinLoss().to(video.device)(reconstruction, video, posterior)[0]


STAGE = Stage(
    name="autoencoder",
    models={
        "tiny": lambda: AutoencoderVidTwin(**preset_model("autoencoder", "tiny")),
        "paper": AutoencoderVidTwin,
    },
    inputs=clips,
    loss=loss,
)
