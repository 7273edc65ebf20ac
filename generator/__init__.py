"""Stage two of VidTwin Diffusion: a diffusion transformer on the two latents of the autoencoder."""

from generator.dit import VidTwinDiT
from generator.tokens import TokenLayout

__all__ = ["TokenLayout", "VidTwinDiT"]
