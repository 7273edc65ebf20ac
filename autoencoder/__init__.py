"""Stage one of VidTwin Diffusion: the video autoencoder, and what both stages share."""

from typing import TYPE_CHECKING

from autoencoder.common.lazy import hand_on

if TYPE_CHECKING:
    from autoencoder.latents import VidTwinLatents, VidTwinPosterior
    from autoencoder.vidtwin import AutoencoderVidTwin

__all__ = ["AutoencoderVidTwin", "VidTwinLatents", "VidTwinPosterior"]

__getattr__, __dir__ = hand_on(
    __name__,
    {
        "AutoencoderVidTwin": "autoencoder.vidtwin",
        "VidTwinLatents": "autoencoder.latents",
        "VidTwinPosterior": "autoencoder.latents",
    },
)
