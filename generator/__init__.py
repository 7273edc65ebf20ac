"""Stage two of VidTwin Diffusion: a diffusion transformer on the two latents of the autoencoder."""

from typing import TYPE_CHECKING

from autoencoder.common.lazy import hand_on

if TYPE_CHECKING:
    from generator.dit import VidTwinDiT
    from generator.tokens import TokenLayout

__all__ = ["TokenLayout", "VidTwinDiT"]

__getattr__, __dir__ = hand_on(
    __name__,
    {
        "TokenLayout": "generator.tokens",
        "VidTwinDiT": "generator.dit",
    },
)
