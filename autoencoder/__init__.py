"""Stage one of VidTwin Diffusion: the video autoencoder, and what both stages share."""

from autoencoder.latents import VidTwinLatents, VidTwinPosterior
from autoencoder.vidtwin import AutoencoderVidTwin

__all__ = ["AutoencoderVidTwin", "VidTwinLatents", "VidTwinPosterior"]
