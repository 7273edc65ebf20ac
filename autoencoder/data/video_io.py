"""Clips out of video files, and video files out of clips.

A clip is read in three steps: index the time stamps of the file without decoding it, choose frames by them, and decode
from the key frame before the first chosen frame to the last one. A file that cannot give exactly the chosen frames
raises `UnreadableVideo`; no frame is repeated, shifted or made up to fill a hole.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from autoencoder.common.errors import UserError
from autoencoder.common.files import atomic_path
from autoencoder.common.pictures import gif_bytes, save_webp
from autoencoder.common.upscaling import unrepeated, upscaled
from autoencoder.data.decoders import DECODERS, decode, has_decord
from autoencoder.data.frame_index import FrameIndex, UnreadableVideo, index_frames, video_length
from autoencoder.data.frame_store import FrameStore

Frames = np.ndarray | torch.Tensor | Sequence[Image.Image] | Sequence[np.ndarray]
SAMPLINGS = ("time", "stride")
CROPS = ("center", "random")
UNSEEDED = ("middle", "first")
MOST_OF_GIF = 50  # frames per second
RATES = (0.01, 1000)  # frames per second that all formats can tell
# Containers round time stamps (Matroska to 1 ms), so a sample this close before a frame is meant to show that frame.
STAMP_ROUNDING_S = 1.1e-3


@dataclass(frozen=True)
class ClipReader:
    """Reads clips from video files, by the settings below.

    Raises:
        UserError: if a setting does not fit.
    """

    num_frames: int
    """Frames of a clip."""

    size: int | None = None
    """Height and width of a clip in pixels: the short side is resized to it, the long one cropped. None: as stored."""

    sample_fps: float | None = 8.0
    """Frames taken per second of video. None: every frame."""

    sampling: str = "time"
    """ "time": the frame shown at each sample time, by time stamp; "stride": each round(fps / sample_fps)-th frame."""

    crop: str = "center"
    """ "center", or "random": drawn once per clip."""

    decoder: str = "auto"
    """ "auto" and "pyav": PyAV, which reads all that FFmpeg reads and flags damage; "decord": decord, which reads the
    common formats, and refuses files that it would not read as PyAV does, with the reason."""

    unseeded: str = "middle"
    """Clip that is taken without `rng`, of those that fit: the "middle" or the "first" one."""

    keep_mib: int = 0
    """Memory for decoded videos, in MiB: short files are decoded as a whole and kept, the last read ones, in every
    process that reads; only with a `size`, to which they are kept."""

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise UserError(f"num_frames={self.num_frames}: a clip has at least one frame")
        if self.size is not None and self.size < 1:
            raise UserError(f"size={self.size}: must be at least one pixel, or None")
        if self.sample_fps is not None and not 0 < self.sample_fps < float("inf"):
            raise UserError(f"sample_fps={self.sample_fps}: must be positive, or None for every frame")
        if self.keep_mib < 0:
            raise UserError(f"keep_mib={self.keep_mib}: must be at least 0")
        object.__setattr__(self, "_store", FrameStore(2**20 * self.keep_mib))  # of a frozen dataclass
        known = {"sampling": SAMPLINGS, "crop": CROPS, "decoder": ("auto", *DECODERS), "unseeded": UNSEEDED}
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name}={getattr(self, name)!r} is none of {', '.join(choices)}")
        if self.decoder == "decord" and not has_decord():
            raise UserError("decoder='decord': decord is not installed, or does not load; decoder='pyav' always does")

    def read(
        self,
        path: str | Path,
        rng: np.random.Generator | None = None,
        start: float = 0.0,
        end: float = float("inf"),
    ) -> torch.Tensor:
        """Read one clip.

        Args:
            path: the video file.
            rng: draws the start and the random crop; None takes the clip of `unseeded` and the centre.
            start, end: seconds since the first frame between which all frames of the clip are shown.

        Returns:
            uint8 (T, H, W, 3), upright; H = W = `size` where that is given.

        Raises:
            UnreadableVideo: if the file is unreadable, damaged where the clip lies, or too short.
        """
        index = index_frames(path)
        positions = self.choose(path, index, rng, start, end)
        unique, inverse = np.unique(positions, return_inverse=True)
        if self.size is None:
            clip = torch.from_numpy(decode(self.decoder_name, path, index, unique))
        else:
            clip = cropped(self._frames(path, index, unique), self.size, self.crop, rng)
        return clip[inverse] if len(unique) < len(positions) else clip

    def _frames(self, path: str | Path, index: FrameIndex, positions: np.ndarray) -> torch.Tensor:
        """Frames of these positions, uint8 (T, H, W, 3), whose short side is `size`."""

        def read(positions: np.ndarray) -> torch.Tensor:
            decoded = torch.from_numpy(decode(self.decoder_name, path, index, positions))
            return resized(unrepeated(decoded, index.repeats), self.size)

        everything = np.arange(len(index.stamps))
        video = self._store.frames(path, 3 * self.size**2 * len(everything), lambda: read(everything))
        return read(positions) if video is None else video[positions]

    def choose(
        self,
        path: str | Path,
        index: FrameIndex,
        rng: np.random.Generator | None = None,
        start: float = 0.0,
        end: float = float("inf"),
    ) -> np.ndarray:
        """Choose the frames of a clip; the arguments are those of `read`.

        Returns:
            int64 (T,) positions in the index, ascending; a position comes twice where a frame is shown that long.

        Raises:
            UnreadableVideo: if the video is too short, or states no frame rate where one is needed.
        """
        end = min(end, index.end)
        times = index.times
        # Never so much that it reaches over a whole frame.
        slack = min(STAMP_ROUNDING_S, index.end / len(times) / 4)
        inside = np.flatnonzero((times >= start - slack) & (times < end - slack))
        if self._by_time:
            firsts = inside[times[inside] + self._span < end - slack]
            needed = f"more than {self._span:.3f} s at {self.sample_fps} frames per second"
        else:
            stride = self._stride(path, index.fps)
            length = (self.num_frames - 1) * stride + 1
            firsts = inside[: max(0, len(inside) - length + 1)]
            needed = f"{length} frames"
        if not len(firsts):
            given = f"{max(0.0, end - start):.3f} s ({len(inside)} frames)"
            raise UnreadableVideo(f"{path}: too short, {self.num_frames} frames take {needed}, it has {given}")
        if rng is None:
            first = firsts[(len(firsts) - 1) // 2 if self.unseeded == "middle" else 0]
        else:
            first = firsts[rng.integers(len(firsts))]
        if not self._by_time:
            return first + stride * np.arange(self.num_frames)
        samples = times[first] + np.arange(self.num_frames) / self.sample_fps
        return np.searchsorted(times, samples + slack, side="right") - 1

    def is_too_short(self, path: str | Path, start: float = 0.0, end: float = float("inf")) -> bool:
        """Whether the video, by its header alone, lacks the length for one clip between `start` and `end` seconds.

        Raises:
            UnreadableVideo: if the header cannot be read, or states no frame rate where one is needed.
        """
        seconds, fps = video_length(path)
        available = min(seconds, end) - start
        if self._by_time:
            return available <= self._span
        return round(available * self._rate(path, fps)) < (self.num_frames - 1) * self._stride(path, fps) + 1

    @property
    def decoder_name(self) -> str:
        """The key in `DECODERS` of the reader in use."""
        return "pyav" if self.decoder == "auto" else self.decoder

    @property
    def _by_time(self) -> bool:
        return self.sampling == "time" and self.sample_fps is not None

    @property
    def _span(self) -> float:
        """Seconds from the first to the last sample."""
        return (self.num_frames - 1) / self.sample_fps

    def _rate(self, path: str | Path, fps: float | None) -> float:
        if fps is None:
            raise UnreadableVideo(f"{path}: it states no frame rate, which sampling='stride' needs")
        return fps

    def _stride(self, path: str | Path, fps: float | None) -> int:
        return 1 if self.sample_fps is None else max(1, round(self._rate(path, fps) / self.sample_fps))


def resize_and_crop(
    frames: torch.Tensor, size: int, crop: str = "center", rng: np.random.Generator | None = None
) -> torch.Tensor:
    """Resize the short side to `size` as `resized` and crop the long one as `cropped`; the arguments are theirs.

    Returns:
        uint8 (T, size, size, 3), contiguous.

    Raises:
        UserError: if `crop` is neither "center" nor "random".
    """
    return cropped(resized(frames, size), size, crop, rng)


def resized(frames: torch.Tensor, size: int) -> torch.Tensor:
    """Resize the short side of frames uint8 (T, H, W, 3) to `size` (bilinear, antialiased)."""
    return F.resize(frames.permute(0, 3, 1, 2), [size], antialias=True).permute(0, 2, 3, 1)


def cropped(
    frames: torch.Tensor, size: int, crop: str = "center", rng: np.random.Generator | None = None
) -> torch.Tensor:
    """Crop frames to squares.

    Args:
        frames: uint8 (T, H, W, 3), the shorter of H and W at least `size`.
        size: height and width of the result.
        crop: "center" or "random"; without `rng` both are the centre.
        rng: draws the place of a random crop, the same for all frames.

    Returns:
        uint8 (T, size, size, 3), contiguous.

    Raises:
        UserError: if `crop` is neither.
    """
    if crop not in CROPS:
        raise UserError(f"crop={crop!r} is none of {', '.join(CROPS)}")
    video = frames.permute(0, 3, 1, 2)  # (T, 3, H, W)
    if crop == "random" and rng is not None:
        top, left = (int(rng.integers(side - size + 1)) for side in video.shape[2:])
        video = F.crop(video, top, left, size, size)  # (T, 3, size, size)
    else:
        video = F.center_crop(video, [size, size])  # (T, 3, size, size)
    return video.permute(0, 2, 3, 1).contiguous()  # (T, size, size, 3)


def as_frames(frames: Frames) -> np.ndarray:
    """Convert a video to the uint8 frames of a file.

    Args:
        frames: uint8 (T, H, W, 3), or float in [0, 1], (T, H, W, 3) or (T, 3, H, W), as an array or a tensor on any
            device; or a list of T images or of arrays (H, W, 3). A shape that fits both layouts is (T, H, W, 3).

    Returns:
        uint8 (T, H, W, 3), contiguous.

    Raises:
        UserError: if the shape, dtype or values do not fit.
    """
    if isinstance(frames, list | tuple):
        if len({np.shape(frame) for frame in frames}) > 1:
            raise UserError("the frames of a video must have one size, these have several")
        frames = np.stack([np.asarray(frame) for frame in frames]) if len(frames) else np.empty(0)
    given = frames.detach().cpu() if isinstance(frames, torch.Tensor) else frames
    given = given.float() if isinstance(given, torch.Tensor) and given.is_floating_point() else given  # numpy: no bf16
    array = np.asarray(given)
    is_float = np.issubdtype(array.dtype, np.floating)
    if is_float and array.ndim == 4 and array.shape[-1] != 3 and array.shape[1] == 3:
        array = array.transpose(0, 2, 3, 1)  # (T, H, W, 3)
    if array.ndim != 4 or array.shape[-1] != 3 or not len(array) or not (is_float or array.dtype == np.uint8):
        raise UserError(
            "frames must be uint8 (T, H, W, 3) or float in [0, 1] with T >= 1, or a list of T images, got "
            f"{array.dtype} {array.shape}"
        )
    if is_float:
        if not (array.min(initial=0.0) >= -1e-3 and array.max(initial=0.0) <= 1 + 1e-3):
            raise UserError(f"float frames must be in [0, 1], got {array.min():.4g} to {array.max():.4g}")
        array = np.rint(255 * array.clip(0, 1)).astype(np.uint8)
    return np.ascontiguousarray(array)


def write_video(path: str | Path, frames: Frames, fps: float, upscale: str = "none") -> str:
    """Write a video atomically, in the format of its ending.

    Args:
        path: ends in .mp4 (H.264, 4:2:0, near lossless), .gif or .webp; missing folders are made.
        frames: as `as_frames` takes them; for mp4 H and W are even.
        fps: frames per second, 0.01 to 1000; a GIF has at most 50, and keeps to hundredths of a second.
        upscale: "nearest" or "bicubic" make a small video at least 256 pixels wide, see `upscaled`.

    Returns:
        Its size, and how it was enlarged, in words; the file carries them as its comment. `ClipReader` takes
        repeated pixels back when it resizes.

    Raises:
        UserError: if the ending, shape, dtype, values, rate or `upscale` does not fit.
    """
    path = Path(path)
    ending = path.suffix.lower()
    frames, note = upscaled(as_frames(frames), upscale)
    if ending not in WRITERS:
        raise UserError(f"{path}: the name of the file must end in {' or '.join(WRITERS)}")
    _check_rate(fps)
    WRITERS[ending](frames, path, fps, note)
    return note


def _check_rate(fps: float) -> None:
    if not RATES[0] <= fps <= RATES[1]:
        raise UserError(f"fps={fps}: must be positive, from {RATES[0]} to {RATES[1]} frames per second")


@contextmanager
def open_mp4(path: str | Path, fps: float, upscale: str = "none") -> Iterator[Callable[[Frames], str]]:
    """Write an .mp4 file piece by piece, atomically: the bytes that `write_video` writes of all frames at once.

    Args:
        path, fps, upscale: as of `write_video`.

    Yields:
        A function that appends frames, as `as_frames` takes them, all of one even H and W; it returns the note of
        `write_video`.

    Raises:
        UserError: if shape, dtype, values, rate or `upscale` does not fit.
    """
    _check_rate(fps)
    with _mp4(Path(path), fps) as append:

        def write(frames: Frames) -> str:
            frames, note = upscaled(as_frames(frames), upscale)
            append(frames, note)
            return note

        yield write


@contextmanager
def _mp4(path: Path, fps: float) -> Iterator[Callable[[np.ndarray, str], None]]:
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "12"})
        stream.pix_fmt, size = "yuv420p", None

        def append(frames: np.ndarray, comment: str) -> None:
            nonlocal size
            if size is None:
                size = height, width = frames.shape[1:3]
                if height % 2 or width % 2 or not height or not width:
                    raise UserError(
                        f"the frames are {width} wide and {height} high; 4:2:0 colour needs both even and not 0, while "
                        ".gif and .webp take odd ones"
                    )
                stream.height, stream.width = size
                container.metadata["comment"] = comment
            if frames.shape[1:3] != size:
                raise UserError(f"a video of {size} pixels, height and width, cannot go on with {frames.shape[1:3]}")
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

        yield append
        container.mux(stream.encode(None))


def _write_mp4(frames: np.ndarray, path: Path, fps: float, comment: str) -> None:
    with _mp4(path, fps) as append:
        append(frames, comment)


def _write_gif(frames: np.ndarray, path: Path, fps: float, comment: str) -> None:
    if fps > MOST_OF_GIF:
        raise UserError(f"fps={fps}: a GIF shows at most {MOST_OF_GIF} frames per second, .mp4 and .webp take more")
    with atomic_path(path) as temporary:
        temporary.write_bytes(gif_bytes(frames, fps, comment))


WRITERS = {".mp4": _write_mp4, ".gif": _write_gif, ".webp": save_webp}
