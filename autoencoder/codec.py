"""Clips to latents (posterior means) and back, without gradients and batch by batch."""

import torch

from autoencoder.common.device import to_device
from autoencoder.common.pictures import to_uint8
from autoencoder.data import to_video
from autoencoder.latents import VidTwinLatents
from autoencoder.vidtwin import AutoencoderVidTwin

BATCH_SIZE = 16


@torch.no_grad()
def encode_clips(vae: AutoencoderVidTwin, clips: torch.Tensor, batch_size: int = BATCH_SIZE) -> VidTwinLatents:
    """Encode clips.

    Args:
        vae: in eval mode.
        clips: uint8 (B, T, H, W, 3), on any device.
        batch_size: clips that go through the autoencoder at a time.

    Returns:
        Posterior means of B clips, on the device of the autoencoder.
    """
    videos = (
        to_video(to_device(part, vae.device)).to(vae.dtype) for part in clips.split(batch_size)
    )  # (b, 3, T, H, W) each
    return VidTwinLatents.cat([vae.encode(video).latent_dist.mode() for video in videos])


@torch.no_grad()
def decode_float_clips(
    vae: AutoencoderVidTwin, latents: VidTwinLatents, part: str = "both", batch_size: int = BATCH_SIZE
) -> torch.Tensor:
    """Decode latents.

    Args:
        vae: in eval mode.
        latents: latents of B clips, on any device.
        part: "both", or "structure" or "dynamics" to leave the other one out.
        batch_size: clips that go through the autoencoder at a time.

    Returns:
        float32 (B, 3, T, H, W), clamped to [-1, 1], on the device of the autoencoder.
    """
    starts = range(0, len(latents), batch_size)
    parts = (latents[start : start + batch_size].to(vae.device, vae.dtype) for start in starts)
    return torch.cat([vae.decode(clips, part).sample.float().clamp(-1, 1) for clips in parts])


def decode_clips(
    vae: AutoencoderVidTwin, latents: VidTwinLatents, part: str = "both", batch_size: int = BATCH_SIZE
) -> torch.Tensor:
    """As `decode_float_clips`, but uint8 (B, T, H, W, 3) on the CPU, for files and pictures."""
    return to_uint8(decode_float_clips(vae, latents, part, batch_size)).cpu()
