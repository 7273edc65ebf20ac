"""Encoding and decoding videos of any length and size with an autoencoder of short square clips, in constant memory.

The video is cut into clips that overlap; frames that two clips share are cross-faded. The last clip is filled by
repeating the last frame, and the repeats are dropped. Clips go through the model one at a time, because the last bits
of a result may depend on the batch around it; so decoding a file of latents gives the same bits as decoding at once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torchvision.transforms.v2 import functional as F

from autoencoder.codec import encode_clips
from autoencoder.common.errors import UserError
from autoencoder.common.pictures import to_uint8
from autoencoder.data.video_io import resize_and_crop
from autoencoder.latents import VidTwinLatents
from autoencoder.vidtwin import AutoencoderVidTwin

FITS = ("pad", "crop")


def chosen_overlap(overlap: int | None, num_frames: int) -> int:
    """Frames that neighbouring clips share; None is three eighths of a clip.

    Raises:
        UserError: if it is negative, or so long that three clips would share a frame.
    """
    if overlap is None:
        return 3 * num_frames // 8
    if not 0 <= overlap <= num_frames // 2:
        raise UserError(f"overlap={overlap}: clips of {num_frames} frames can share 0 to {num_frames // 2}")
    return overlap


@dataclass(frozen=True)
class Fit:
    """Maps the frames of a video to the model's square, and back.

    Attributes:
        mode: "pad": the whole picture, padded to a square by repeating its edges (black bars would bleed into the
            picture, since models are trained without them); "crop": its centre square.
        width, height: size of the frames, in pixels.
        size: side of the square, in pixels.

    Raises:
        UserError: if the mode is neither.
    """

    mode: str
    width: int
    height: int
    size: int

    def __post_init__(self):
        if self.mode not in FITS:
            raise UserError(f"fit={self.mode!r} is none of {', '.join(FITS)}")

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Top, left, height and width of the picture within the square."""
        if self.mode == "crop":
            return 0, 0, self.size, self.size
        longer = max(self.height, self.width)
        height, width = (max(1, round(self.size * side / longer)) for side in (self.height, self.width))
        return (self.size - height) // 2, (self.size - width) // 2, height, width

    @property
    def output_size(self) -> tuple[int, int]:
        """Width and height of the frames that come back: those of the video, or of the square where it was cropped."""
        return (self.size, self.size) if self.mode == "crop" else (self.width, self.height)

    def into(self, frame: torch.Tensor) -> torch.Tensor:
        """uint8 (H, W, 3) to uint8 (S, S, 3)."""
        if self.mode == "crop":
            return resize_and_crop(frame[None], self.size)[0]
        top, left, height, width = self.box
        picture = F.resize(rearrange(frame, "h w c -> c h w"), [height, width], antialias=True)  # (3, h, w)
        bars = [left, top, self.size - width - left, self.size - height - top]
        square = F.pad(picture, bars, padding_mode="edge")  # (3, S, S)
        return rearrange(square, "c h w -> h w c").contiguous()

    def back(self, square: torch.Tensor) -> torch.Tensor:
        """float (3, S, S) in [-1, 1] to uint8 (H, W, 3), or to uint8 (S, S, 3) where the frames were cropped."""
        width, height = self.output_size
        picture = F.crop(square, *self.box)  # (3, h, w)
        picture = F.resize(picture, [height, width], antialias=True)  # (3, H, W)
        return to_uint8(picture[:, None])[0]


def cut(frames: Iterable[torch.Tensor], num_frames: int, overlap: int) -> Iterator[torch.Tensor]:
    """Cut frames into clips that share `overlap` frames with their neighbours.

    Args:
        frames: uint8 (S, S, 3) each.
        num_frames: frames F of a clip.
        overlap: frames that a clip shares with the next one.

    Yields:
        uint8 (F, S, S, 3); the last one is filled by repeating the last frame.
    """
    clip: list[torch.Tensor] = []
    new = 0  # frames of the clip that no clip before it holds
    for frame in frames:
        clip.append(frame)
        new += 1
        if len(clip) == num_frames:
            yield torch.stack(clip)
            clip, new = clip[num_frames - overlap :], 0
    if new:
        yield torch.stack(clip + clip[-1:] * (num_frames - len(clip)))


def join(clips: Iterable[torch.Tensor], overlap: int) -> Iterator[torch.Tensor]:
    """Join clips, cross-fading linearly over the frames that two of them share.

    Args:
        clips: float (3, F, S, S) each, cut with the same overlap.
        overlap: frames that a clip shares with the next one.

    Yields:
        float (3, S, S), a frame at a time, with the repeats at the end of the last clip.
    """
    weights = torch.arange(1, overlap + 1) / (overlap + 1)  # of the later clip
    held = None
    for clip in clips:
        clip = clip.clone()
        if held is not None:
            clip[:, :overlap] = torch.lerp(held, clip[:, :overlap], weights.to(clip)[:, None, None])
        end = clip.shape[1] - overlap
        yield from clip[:, :end].unbind(1)
        held = clip[:, end:]  # (3, overlap, S, S)
    if held is not None:
        yield from held.unbind(1)


@torch.no_grad()
def encode_frames(model: AutoencoderVidTwin, frames: Iterable[torch.Tensor], overlap: int) -> Iterator[VidTwinLatents]:
    """Encode a video clip by clip.

    Args:
        model: in eval mode.
        frames: uint8 (S, S, 3) each.
        overlap: frames that neighbouring clips share.

    Yields:
        Posterior means of one clip (B = 1), on the device of the model.
    """
    for clip in cut(frames, model.config.num_frames, overlap):
        yield encode_clips(model, clip[None])


def decode_frames(
    model: AutoencoderVidTwin, latents: Iterable[VidTwinLatents], overlap: int, part: str = "both"
) -> Iterator[torch.Tensor]:
    """Decode a video clip by clip.

    Args:
        model: in eval mode.
        latents: latents of one clip each (B = 1).
        overlap: with which the video was encoded.
        part: "both", or "structure" or "dynamics" to leave the other one out.

    Yields:
        float (3, S, S), about [-1, 1], on the CPU; after the last frame its repeats.
    """

    @torch.no_grad()
    def decoded(clip: VidTwinLatents) -> torch.Tensor:
        return model.decode(clip.to(model.device), part=part).sample[0].float().cpu()  # (3, F, S, S)

    return join(map(decoded, latents), overlap)


def swap_dynamics(structure: Iterable[VidTwinLatents], dynamics: Iterable[VidTwinLatents]) -> Iterator[VidTwinLatents]:
    """The structure of one video with the dynamics of another, to the end of the shorter one."""
    for one, other in zip(structure, dynamics, strict=False):
        yield VidTwinLatents(one.structure, other.dynamics)
