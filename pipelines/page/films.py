"""Videos that come to the page and leave it: what is taken, as what it is read, and at what size it is shown."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import torch

from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.common.upscaling import upscaled
from autoencoder.data.frame_index import UnreadableVideo, index_frames
from autoencoder.data.video_io import ClipReader, write_video
from autoencoder.vidtwin import AutoencoderVidTwin
from autoencoder.whole_videos.video_file import VideoFile, open_file
from pipelines.output import FPS

# Containers of videos alone. Others, such as playlists, name further files of this machine, which FFmpeg would open.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpeg,mpegts,asf,flv,ogg"
NAMES = ("mp4", "mov", "mkv", "webm", "avi", "gif", "mpg", "ts", "wmv", "flv", "ogg")
MOST_PIXELS = 4096 * 2304  # of a frame: some are in memory at a time
MOST_RATE = 120  # frames per second of the longest video: each takes work, however short it is shown


@dataclass(frozen=True)
class Limits:
    """What may be uploaded.

    Attributes:
        seconds: longest video.
        megabytes: largest file, in units of 2^20 bytes.
    """

    seconds: float = 60.0
    megabytes: float = 50.0


def check_upload(path: str | Path, limits: Limits) -> VideoFile:
    """Look at an uploaded file, without decoding more than a frame of it.

    Raises:
        UserError: if it is gone, no video, too large, too long or of too many frames; one sentence that names it as its
            owner does.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path.name} is no longer here: upload it again")
    size = path.stat().st_size / 2**20
    if size > limits.megabytes:
        raise UserError(f"{path.name} has {size:.1f} MB, and up to {limits.megabytes:g} MB are taken")
    with named_by_owner(path):
        if not size:
            raise UnreadableVideo(f"{path}: the file is empty")
        try:
            with av.open(str(path), options={"format_whitelist": CONTAINERS}, metadata_errors="replace") as container:
                codecs = [stream.codec_context for stream in container.streams.video]
                sizes = [(codec.width, codec.height) for codec in codecs]
        except av.ArgumentError as error:  # of a format that is not on the list
            raise UnreadableVideo(f"{path}: it is no {', '.join(NAMES[:-1])} or {NAMES[-1]} file") from error
        except (av.FFmpegError, OSError) as error:
            raise UnreadableVideo(f"{path}: {error.strerror or error}") from error
        for size in sizes:  # before a frame is decoded: a small file may hold a huge one
            _check_size(path, *size)
        seconds, video = index_frames(path).end, open_file(path)
    if seconds > limits.seconds:
        raise UserError(f"{path.name} lasts {seconds:.1f} s, and up to {limits.seconds:g} s are taken")
    if video.num_frames > limits.seconds * MOST_RATE:
        most = f"{limits.seconds * MOST_RATE:,.0f}"
        raise UserError(f"{path.name} has {video.num_frames:,} frames, and up to {most} are taken")
    _check_size(path, video.format.width, video.format.height)
    return video


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise UserError(f"{path.name} has frames of {width} x {height}, and up to {MOST_PIXELS:,} pixels are taken")


@contextmanager
def named_by_owner(path: Path) -> Iterator[None]:
    """Inside the block errors call an uploaded file by its name, not by where it lies on this machine."""
    try:
        yield
    except UnreadableVideo as error:
        reason = str(error).replace(f"{path}: ", "").replace(str(path), path.name)
        raise UnreadableVideo(f"{path.name} cannot be read as a video: {reason}") from error


def read_clip(path: str | Path, vae: AutoencoderVidTwin, limits: Limits) -> torch.Tensor:
    """The first clip of an uploaded video as the autoencoder takes it: the centre square, 8 frames per second.

    Returns:
        uint8 (T, S, S, 3).

    Raises:
        UserError: as `check_upload`, or if the video is too short for a clip.
    """
    check_upload(path, limits)
    reader = ClipReader(vae.config.num_frames, vae.config.sample_size, FPS, unseeded="first")
    with named_by_owner(Path(path)):
        return reader.read(path)


def enlarged(frame: torch.Tensor) -> torch.Tensor:
    """A frame uint8 (H, W, 3) as it is shown, (H', W', 3): not too small, and both sides even as H.264 has it."""
    frame = torch.from_numpy(upscaled(frame[None].numpy(), "nearest")[0][0])
    height, width = (max(2, side // 2 * 2) for side in frame.shape[:2])
    return frame[:height, :width]


def show(frames: torch.Tensor, path: Path) -> str:
    """Write frames uint8 (T, H, W, 3) as a file that is not too small to look at, and return its path."""
    write_video(path, frames, FPS, upscale="nearest")
    return str(path)
