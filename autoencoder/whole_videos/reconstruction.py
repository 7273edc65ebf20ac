"""Reconstructing a video frame by frame, for `python -m autoencoder.reconstruct`."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from autoencoder.checkpoint import load_autoencoder
from autoencoder.common.progress import progress_bar
from autoencoder.common.upscaling import unrepeated
from autoencoder.reconstruct import ReconstructConfig
from autoencoder.vidtwin import AutoencoderVidTwin
from autoencoder.whole_videos.clips import Fit, chosen_overlap, decode_frames, encode_frames, swap_dynamics
from autoencoder.whole_videos.video_file import TimedFrame, VideoFile, check_output, open_file, open_writer


class Waiting(NamedTuple):
    """A frame of the input that was given to the model and has no reconstruction yet.

    Attributes:
        original: uint8 (H, W, 3), to put beside the result; None if not wanted.
        stamp, duration: as of `TimedFrame`.
    """

    original: torch.Tensor | None
    stamp: int
    duration: int


def reconstructed(
    model: AutoencoderVidTwin, structure: VideoFile, dynamics: VideoFile, config: ReconstructConfig
) -> Iterator[TimedFrame]:
    """Reconstruct a video, a frame at a time; no more than two clips of it are in memory.

    Args:
        model: in eval mode.
        structure: video of the structure latent, whose size and time stamps the result has.
        dynamics: video of the dynamics latent; the same object for a plain reconstruction.
        config: the command's config.

    Yields:
        Frames uint8 (H, W, 3), or (H, 2 W, 3) with the original on the left.
    """
    overlap = chosen_overlap(config.overlap, model.config.num_frames)
    fit = _fit(model, structure, config)
    waiting: deque[Waiting] = deque()
    queues = [waiting]
    latents = encode_frames(model, _squares(structure, fit, waiting, config.beside), overlap)
    if dynamics is not structure:
        queues.append(deque())
        other = _squares(dynamics, _fit(model, dynamics, config), queues[1])
        latents = swap_dynamics(latents, encode_frames(model, other, overlap))
    for square in decode_frames(model, latents, overlap, config.part):
        if not all(queues):  # a video has ended; what comes are the repeats of its last frame
            return
        original, stamp, duration = [queue.popleft() for queue in queues][0]
        pixels = fit.back(square)
        if original is not None:
            pixels = torch.cat([original, pixels], dim=1)  # (H, 2 W, 3)
        yield TimedFrame(pixels, stamp, duration)


def _squares(video: VideoFile, fit: Fit, waiting: deque[Waiting], keep: bool = False) -> Iterator[torch.Tensor]:
    """The frames for the model, uint8 (S, S, 3); each is noted in `waiting`, with its pixels if `keep`."""
    for pixels, stamp, duration in video.frames():
        square = fit.into(unrepeated(pixels, video.repeats))
        original = square if fit.mode == "crop" else pixels
        waiting.append(Waiting(original if keep else None, stamp, duration))
        yield square


def _fit(model: AutoencoderVidTwin, video: VideoFile, config: ReconstructConfig) -> Fit:
    return Fit(config.fit, video.format.width, video.format.height, model.config.sample_size)


def reconstruct(
    model: AutoencoderVidTwin, structure: VideoFile, dynamics: VideoFile, output: Path, config: ReconstructConfig
) -> int:
    """Write the reconstruction of `reconstructed` to a file, with a progress bar.

    Returns:
        Number of frames written.
    """
    total = min(structure.num_frames, dynamics.num_frames)
    width, height = _fit(model, structure, config).output_size
    form = replace(structure.format, width=width * (1 + config.beside), height=height)
    audio_of = structure.path if config.audio else None
    count = 0
    with open_writer(output, form, audio_of, whole_audio=total == structure.num_frames) as writer:
        frames = reconstructed(model, structure, dynamics, config)
        for frame in progress_bar(total, "reconstructing", "frame", over=frames):
            writer.write(*frame)
            count += 1
    return count


def execute(config: ReconstructConfig, source: Path, dynamics_source: Path, output: Path) -> None:
    """Reconstruct a video file.

    Args:
        config: the command's config.
        source: video of the structure latent.
        dynamics_source: video of the dynamics latent; the same one for a plain reconstruction.
        output: file to write.
    """
    check_output(output, source, dynamics_source)
    model = load_autoencoder(config.checkpoint, config.device)
    chosen_overlap(config.overlap, model.config.num_frames)
    structure = open_file(source)
    dynamics = structure if dynamics_source == source else open_file(dynamics_source)
    count = reconstruct(model, structure, dynamics, output, config)
    listed = min(structure.num_frames, dynamics.num_frames)
    missing = f" ({listed} are listed, the others do not decode)" if count < listed else ""
    print(f"wrote {count} frames to {output}{missing}")
