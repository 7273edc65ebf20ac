"""Videos as pictures: GIFs for TensorBoard, labelled sheets of frames as PNG."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from autoencoder.common.errors import UserError
from autoencoder.common.files import atomic_path

Frames = torch.Tensor | np.ndarray  # uint8 (T, H, W, 3)

MIN_FRAME_SIDE = 96  # frames of a sheet are blown up to at least this many pixels
CAPTION_SIZE = 18
GAP = 4
BACKGROUND, INK = (255, 255, 255), (0, 0, 0)


def to_uint8(video: torch.Tensor) -> torch.Tensor:
    """Convert a video of the models to the frames of a file.

    Args:
        video: float (..., 3, T, H, W); [-1, 1] becomes [0, 255], values outside are clamped.

    Returns:
        uint8 (..., T, H, W, 3) on the same device.

    Raises:
        ValueError: if the video has another layout or holds NaN or infinity.
    """
    if video.ndim < 4 or video.shape[-4] != 3 or not video.is_floating_point():
        raise ValueError(f"a video is float (..., 3, T, H, W), got {video.dtype} {tuple(video.shape)}")
    if not video.isfinite().all():
        raise ValueError(f"the video holds {int((~video.isfinite()).sum())} values that are not finite")
    video = ((video.float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
    return rearrange(video, "... c t h w -> ... t h w c")


def unit_to_uint8(values: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Round values in [0, 1], of any layout, to the 256 levels of a file: uint8 of the same shape.

    It turns a pipeline's `output_type="np"` into frames, and gives metrics the values that a file would hold.
    """
    return (255 * torch.as_tensor(values)).round().to(torch.uint8)


def gif_bytes(frames: Frames, fps: float) -> bytes:
    """Encode frames as a looping GIF, whose durations are whole hundredths of a second.

    Args:
        frames: uint8 (T, H, W, 3).
        fps: frames per second.

    Raises:
        UserError: if `fps` is not positive.
    """
    if fps <= 0:
        raise UserError(f"fps must be positive, got {fps}")
    first, *rest = _images(frames)
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    return buffer.getvalue()


def printable(text: str) -> str:
    """Escape what no file or terminal can show, such as the bytes of a file name that is not UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Previews:
    """Guards the making of preview pictures: a failure is a warning, once per type of exception; the run goes on."""

    def __init__(self):
        self._seen: set[type[Exception]] = set()

    @contextmanager
    def attempted(self, name: str, step: int) -> Iterator[None]:
        """Turn any exception of the block into a one-line warning.

        Args:
            name: what the block makes, such as "preview".
            step: the run's step.
        """
        try:
            yield
        except Exception as error:  # of any kind, for the training is worth more than its pictures
            if type(error) not in self._seen:
                self._seen.add(type(error))
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                print(f"warning: no {name} at step {step}, the training goes on: {printable(reason)}", flush=True)


def add_moving_picture(writer: SummaryWriter, tag: str, frames: Frames, step: int, fps: float) -> None:
    """Log frames to TensorBoard as a moving picture.

    `SummaryWriter.add_video` needs moviepy, and logs nothing with the present version of it; TensorBoard's image tab
    plays a GIF as it is.

    Args:
        writer: where to log.
        tag: name of the picture; what cannot be printed in it is escaped.
        frames: uint8 (T, H, W, 3).
        step: step of the run.
        fps: frames per second.
    """
    gif = gif_bytes(frames, fps)
    _, height, width, channels = frames.shape
    picture = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=gif)
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=printable(tag), image=picture)]), step)


def sheet(
    rows: Sequence[tuple[str, Frames | Sequence[Frames]]], columns: int = 8, scale: int | None = None
) -> Image.Image:
    """Lay videos out as a labelled grid, one line of evenly spaced frames per clip.

    Args:
        rows: caption, and frames uint8 (T, H, W, 3) or a list of such, which become lines under the one caption.
        columns: most frames of a line; the first and the last frame are always among them.
        scale: factor by which each pixel is repeated; None enlarges small frames to about 100 pixels.

    Returns:
        An RGB picture.

    Raises:
        ValueError: if there is nothing to show, or a clip is not uint8 (T, H, W, 3).
    """
    if not rows or columns < 1:
        raise ValueError(f"a sheet needs rows and at least one column, got {len(rows)} rows and columns={columns}")
    font = ImageFont.load_default(CAPTION_SIZE)
    parts: list[Image.Image] = []
    for caption, clips in rows:
        parts.append(_caption(caption, font))
        clips = [clips] if isinstance(clips, (torch.Tensor, np.ndarray)) else clips
        parts.extend(_line(_images(clip), columns, scale) for clip in clips)
    return _stack(parts)


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a PNG file atomically."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def _images(frames: Frames) -> list[Image.Image]:
    frames = np.asarray(frames.cpu() if isinstance(frames, torch.Tensor) else frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(f"frames are uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    return [Image.fromarray(frame) for frame in frames]


def _line(images: list[Image.Image], columns: int, scale: int | None) -> Image.Image:
    """Evenly spaced frames side by side."""
    chosen = np.linspace(0, len(images) - 1, min(columns, len(images))).round().astype(int)
    width, height = images[0].size
    scale = scale or math.ceil(MIN_FRAME_SIDE / min(width, height))
    width, height = scale * width, scale * height
    line = Image.new("RGB", (len(chosen) * (width + GAP) - GAP, height), BACKGROUND)
    for column, index in enumerate(chosen):
        line.paste(images[index].resize((width, height), Image.Resampling.NEAREST), (column * (width + GAP), 0))
    return line


def _caption(text: str, font: ImageFont.ImageFont) -> Image.Image:
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("RGB", (math.ceil(right - left) or 1, math.ceil(bottom - top) + 2 * GAP), BACKGROUND)
    ImageDraw.Draw(image).text((-left, GAP - top), text, fill=INK, font=font)
    return image


def _stack(parts: list[Image.Image]) -> Image.Image:
    """Pictures below each other, with a margin."""
    width = max(part.width for part in parts) + 2 * GAP
    picture = Image.new("RGB", (width, sum(part.height + GAP for part in parts) + GAP), BACKGROUND)
    y = GAP
    for part in parts:
        picture.paste(part, (GAP, y))
        y += part.height + GAP
    return picture
