"""Videos as pictures: GIFs for TensorBoard, labelled sheets of frames as PNG, panels of clips that move together."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import ExifTags, Image, ImageDraw, ImageFont
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from autoencoder.common.errors import UserError
from autoencoder.common.files import atomic_path

Frames = torch.Tensor | np.ndarray  # uint8 (T, H, W, 3)

SHEET_COLUMNS = 8  # frames of a line of a sheet
MIN_FRAME_SIDE = 96  # frames of a sheet are blown up to at least this many pixels
CAPTION_SIZE, LABEL_SIZE, TITLE_SIZE = 18, 15, 26
GAP = 4
PANEL_GAP = 16
MIN_PANEL_SIDE = 256  # a clip of a moving picture is blown up to at least this many pixels
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


def gif_bytes(frames: Frames, fps: float, comment: str = "") -> bytes:
    """Encode frames as a looping GIF.

    Frames stay whole hundredths of a second, at 8 per second 12 or 13, so that the sum is right; but at least two, as
    most viewers slow down what is shorter.

    Args:
        frames: uint8 (T, H, W, 3).
        fps: frames per second.
        comment: text that the file carries.

    Raises:
        UserError: if `fps` is not positive.
    """
    if fps <= 0:
        raise UserError(f"fps must be positive, got {fps}")
    first, *rest = _images(frames)
    buffer = io.BytesIO()
    options = {"append_images": rest, "duration": _stays(len(frames), fps, 10, 20), "loop": 0, "comment": comment}
    first.save(buffer, format="GIF", save_all=True, **options)
    return buffer.getvalue()


def _stays(count: int, fps: float, unit: int, least: int) -> list[int]:
    """Milliseconds that each frame stays: multiples of `unit` whose sum is right up to one, each at least `least`."""
    starts = [round(1000 * index / (fps * unit)) for index in range(count + 1)]
    return [max(least, unit * (after - start)) for start, after in zip(starts, starts[1:], strict=False)]


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


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most `most` of the places 0 to `count` - 1, evenly spaced, with the first and the last one."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()


def sheet(
    rows: Sequence[tuple[str, Frames | Sequence[Frames]]], columns: int = SHEET_COLUMNS, scale: int | None = None
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


@dataclass(frozen=True)
class PanelRow:
    """Clips side by side, under one caption and each under its label.

    Attributes:
        caption: what they have in common; "" leaves the line out.
        clips: uint8 (T, H, W, 3) each, all of one shape.
        labels: one per clip.
    """

    caption: str
    clips: Sequence[Frames]
    labels: Sequence[str]


def panel_sheet(sections: Sequence[tuple[str, Sequence[PanelRow]]], columns: int = 3) -> Image.Image:
    """Lay panels out as a picture of evenly spaced frames.

    Args:
        sections: title and rows of each.
        columns: most frames of a clip.

    Returns:
        An RGB picture.

    Raises:
        ValueError: if there is nothing to show, or a clip is not uint8 (T, H, W, 3).
    """
    font = ImageFont.load_default(TITLE_SIZE)
    parts: list[Image.Image] = []
    for title, rows in sections:
        parts += [_caption(title, font), _panels(rows, lambda images: _line(images, columns, None))]
    return _stack(parts)


def moving_panels(rows: Sequence[PanelRow], side: int = MIN_PANEL_SIDE) -> np.ndarray:
    """Lay panels out as a moving picture, in which all clips move together.

    Args:
        rows: clips with T frames each.
        side: clips are blown up to at least this many pixels.

    Returns:
        uint8 (T, H, W, 3).
    """

    def drawn(frame: int) -> Image.Image:
        return _panels(rows, lambda images: _enlarged(images[frame], side))

    return np.stack([np.asarray(drawn(frame)) for frame in range(len(rows[0].clips[0]))])


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a PNG file atomically."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def save_webp(frames: Frames, path: str | Path, fps: float, comment: str = "") -> None:
    """Write a looping WebP file atomically, near lossless; a GIF has too few colours for several clips at once.

    Args:
        frames: uint8 (T, H, W, 3).
        path: the file; missing folders are made.
        fps: frames per second.
        comment: text that the file carries, as the description of its Exif data.
    """
    first, *rest = _images(frames)
    exif = Image.Exif()
    if comment:
        exif[ExifTags.Base.ImageDescription] = comment
    stays = _stays(len(frames), fps, 1, 1)
    with atomic_path(path) as temporary:
        options = {"append_images": rest, "duration": stays, "loop": 0, "quality": 90, "method": 2, "exif": exif}
        first.save(temporary, format="WEBP", save_all=True, **options)


def _images(frames: Frames) -> list[Image.Image]:
    frames = np.asarray(frames.cpu() if isinstance(frames, torch.Tensor) else frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(f"frames are uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    return [Image.fromarray(frame) for frame in frames]


def _line(images: list[Image.Image], columns: int, scale: int | None) -> Image.Image:
    """Evenly spaced frames side by side."""
    chosen = evenly_spaced(len(images), columns)
    return _beside([_enlarged(images[index], MIN_FRAME_SIDE, scale) for index in chosen], GAP)


def _enlarged(image: Image.Image, side: int, scale: int | None = None) -> Image.Image:
    """Each pixel repeated `scale` times, by default so often that no side is shorter than `side`."""
    width, height = image.size
    scale = scale or math.ceil(side / min(width, height))
    return image.resize((scale * width, scale * height), Image.Resampling.NEAREST)


def _beside(parts: list[Image.Image], gap: int) -> Image.Image:
    """Pictures side by side, without a margin."""
    line = Image.new("RGB", (sum(part.width + gap for part in parts) - gap, max(p.height for p in parts)), BACKGROUND)
    x = 0
    for part in parts:
        line.paste(part, (x, 0))
        x += part.width + gap
    return line


def _panels(rows: Sequence[PanelRow], draw: Callable[[list[Image.Image]], Image.Image]) -> Image.Image:
    """Rows of panels below each other, each clip's frames drawn by `draw`."""
    caption, label = ImageFont.load_default(CAPTION_SIZE), ImageFont.load_default(LABEL_SIZE)
    parts: list[Image.Image] = []
    for row in rows:
        panels = [
            _stack([_caption(text, label), draw(_images(clip))], margin=0)
            for text, clip in zip(row.labels, row.clips, strict=True)
        ]
        parts += [*([_caption(row.caption, caption)] if row.caption else []), _beside(panels, PANEL_GAP)]
    return _stack(parts)


def _caption(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One line, as high as any other one of this font."""
    left, _, right, _ = font.getbbox(text)
    image = Image.new("RGB", (math.ceil(right - left) or 1, sum(font.getmetrics()) + GAP), BACKGROUND)
    ImageDraw.Draw(image).text((-left, GAP / 2), text, fill=INK, font=font)
    return image


def _stack(parts: list[Image.Image], margin: int = GAP) -> Image.Image:
    """Pictures below each other."""
    width = max(part.width for part in parts) + 2 * margin
    height = sum(part.height + GAP for part in parts) - GAP + 2 * margin
    picture = Image.new("RGB", (width, height), BACKGROUND)
    y = margin
    for part in parts:
        picture.paste(part, (margin, y))
        y += part.height + GAP
    return picture
