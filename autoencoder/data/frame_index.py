"""Indexing the frames of a video file by its packets, without decoding them."""

import os
import stat
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from autoencoder.common.errors import UserError
from autoencoder.common.upscaling import repeats
from autoencoder.data.decord_limits import IndexedPacket, format_obstacles, is_utf8, order_obstacles
from autoencoder.data.orientation import AS_STORED, OddAngle, Orientation, orientation_of_frame

# A header that claims more than this beyond the last frame is a sign that the end of the file is missing.
END_TOLERANCE_S = 0.25
# A file whose clock has 0 ticks per second is read as if it had one; its frames then last for minutes.
MAX_MEAN_FRAME_S = 60.0
# Streams without a header, for whose length the demuxer gives a guess from the bit rate.
WITHOUT_LENGTH = ("mpeg", "mpegts", "mpegvideo", "m4v", "h264", "hevc", "obu")
# A frame may have so many times the pixels that the stream states, and so many in any case. Pictures that change their
# size are refused anyway, but only once they are decoded: a small file may hold a huge one.
MOST_GROWTH, LEAST_BOUND = 4, 2**20
# Files whose index a process keeps, those read last. One takes some kilobytes.
KEPT_INDICES = 4096


class UnreadableVideo(UserError):
    """The file cannot give the wanted clip; the message names the file and the reason."""


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video stream, in the order of display, as its packets describe them.

    Attributes:
        stamps: int64 (N,) display time stamps in units of the stream's time base, strictly increasing.
        decode_stamps: int64 (N,) decoding time stamps, never later than `stamps`.
        is_key: bool (N,) whether decoding can start at the frame.
        time_base: seconds per unit of the stamps.
        end: second at which the last frame stops being shown.
        fps: average frame rate; None for a single frame where the file states none.
        by_dts: whether a decoded frame is identified by its decoding time stamp, see `stamp_of`.
        orientation: how the stored picture is displayed.
        decord_obstacle: why decord would not decode these frames as PyAV does; None where it would.
        repeats: how often each pixel is repeated in either direction, by the comment of a file that we enlarged.
    """

    stamps: np.ndarray
    decode_stamps: np.ndarray
    is_key: np.ndarray
    time_base: float
    end: float
    fps: float | None
    by_dts: bool
    orientation: Orientation
    decord_obstacle: str | None
    repeats: int = 1

    @property
    def times(self) -> np.ndarray:
        """Seconds since the first frame, float64 (N,)."""
        return (self.stamps - self.stamps[0]) * self.time_base


def open_video(path: str | Path) -> av.container.InputContainer:
    """Open a file that holds a video stream.

    Raises:
        UnreadableVideo: if it is no file, empty, or holds no video stream that can be decoded.
        OSError, av.FFmpegError: if it cannot be opened.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe would wait for its other end
        raise UnreadableVideo(f"{path}: it is neither a file nor a link to one")
    with open(path, "rb") as file:  # OSError here says more than the demuxer's
        if not file.read(1):
            raise UnreadableVideo(f"{path}: the file is empty")
    container = av.open(str(path), metadata_errors="replace")
    problem = _obstacle_to_decoding(container)
    if problem is not None:
        container.close()
        raise UnreadableVideo(f"{path}: {problem}")
    _bound_frames(container.streams.best("video").codec_context)
    return container


def _bound_frames(codec: av.VideoCodecContext) -> None:
    """Let the decoder refuse frames far larger than the stream says, before it takes memory for them."""
    if stated := codec.width * codec.height:
        codec.options = {**codec.options, "max_pixels": str(max(MOST_GROWTH * stated, LEAST_BOUND))}


def reason_of(error: av.FFmpegError | OSError) -> str:
    """Why a video does not decode, in words."""
    if isinstance(error, av.ArgumentError):  # all that FFmpeg says of a frame beyond the bound
        return "a frame is damaged, or far larger than the first one"
    return error.strerror or str(error)


def _obstacle_to_decoding(container: av.container.InputContainer) -> str | None:
    if container.format.name == "webp_pipe":
        return "FFmpeg reads no moving WebP: give the video as mp4 or GIF"
    if container.format.name.endswith("_pipe"):  # so FFmpeg calls what reads a picture as a video of one frame
        return f"it is a single picture ({container.format.long_name}), not a video"
    stream = container.streams.best("video")
    if stream is None or Disposition.attached_pic in stream.disposition:
        return "it holds no video stream"
    return "there is no decoder for its video stream" if stream.codec_context is None else None


def index_frames(path: str | Path) -> FrameIndex:
    """Read the time stamps of all frames from their packets.

    A process caches the indices of the last `KEPT_INDICES` files, by path, size and modification time.

    Raises:
        UnreadableVideo: if the file cannot be opened, or holds no frames with distinct and plausible time stamps.
    """
    return _kept_index(*file_state(path)).unpack()


def file_state(path: str | Path) -> tuple[str, int, int, int, int]:
    """What tells a file from another one, and from itself once it has changed: its path, place, size and time.

    Raises:
        UnreadableVideo: if there is no such file.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        raise UnreadableVideo(f"{path}: {error.strerror or error}") from error
    return str(path), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


@lru_cache(maxsize=KEPT_INDICES)
def _kept_index(path: str, *state: int) -> "_PackedIndex":
    """The index of a file in the given state."""
    return _PackedIndex.of(_read_index(path))


def _read_index(path: str) -> FrameIndex:
    try:
        with open_video(path) as container:
            stream = container.streams.best("video")
            time_base, fps = float(stream.time_base), _average_rate(stream)
            claimed_s = (container.duration or 0) / av.time_base
            is_avi = "avi" in container.format.name
            shown, has_hidden, has_torn = _read_packets(container, stream)
            by_dts = counts_by_decoding(container, stream)
            first = _first_frame(container, stream)
            shown_as = AS_STORED if first is None else orientation_of_frame(first)
            in_format = format_obstacles(container, stream, first, shown_as)
            repeated = repeats_of(container, stream)
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(f"{path}: {error.strerror or error}") from error
    except OddAngle as error:
        raise UnreadableVideo(f"{path}: {error}") from error
    shown.sort()
    is_cut = shown and claimed_s > (shown[-1].pts + shown[-1].duration - shown[0].pts) * time_base + END_TOLERANCE_S
    if is_cut:  # frames to be shown between the last ones may be among what is lost
        last_decoded = max(packet.dts for packet in shown)
        shown = [packet for packet in shown if packet.pts <= last_decoded]
    if not shown:
        raise UnreadableVideo(f"{path}: it holds no whole frames with time stamps")
    obstacles = {
        "it holds packets that are damaged or not shown": has_hidden,
        "the parts of a packet do not add up to it": has_torn,
        "its end is missing": is_cut,
        "its name is no UTF-8": not is_utf8(path),
        **order_obstacles(shown, is_avi),
        **in_format,
    }
    reason = next((reason for reason, holds in obstacles.items() if holds), None)
    known = {"by_dts": by_dts, "orientation": shown_as, "decord_obstacle": reason, "repeats": repeated}
    return _index(path, shown, time_base, fps, **known)


def repeats_of(container: av.container.InputContainer, stream: av.VideoStream) -> int:
    """How often each pixel is repeated in either direction: more than once in videos that we enlarged."""
    return repeats(container.metadata.get("comment"), stream.codec_context.width, stream.codec_context.height)


def _first_frame(container: av.container.InputContainer, stream: av.VideoStream) -> av.VideoFrame | None:
    """The first frame that decodes; None where none does."""
    stream.thread_type = "NONE"
    try:
        container.seek(stream.start_time or 0, stream=stream)
        return next(container.decode(stream), None)
    except av.FFmpegError:
        return None


def _read_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[list[IndexedPacket], bool, bool]:
    """The packets to be shown, whether there are others, and whether one is not whole."""
    shown: list[IndexedPacket] = []
    has_hidden = has_torn = False
    length_bytes = _unit_length_bytes(stream.codec_context)
    for packet in container.demux(stream):
        has_torn |= not _adds_up(packet, length_bytes)
        if packet.pts is None or packet.is_discard or packet.is_corrupt:
            has_hidden |= packet.size > 0  # the last packet is an empty end mark
        else:
            dts = packet.pts if packet.dts is None else packet.dts
            shown.append(IndexedPacket(packet.pts, dts, packet.duration or 0, packet.is_keyframe, len(shown)))
    return shown, has_hidden, has_torn


def counts_by_decoding(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether the display time of a frame has to be taken from its decoding time stamp, see `stamp_of`.

    AVI stores no display time. For MPEG-4 with frames stored out of order, above all where DivX and Xvid pack two into
    one packet, the demuxer's guess is wrong, while the decoder returns frames in the order and time of display.
    """
    return "avi" in container.format.name and stream.codec_context.name == "mpeg4"


def stamp_of(frame: av.VideoFrame, by_dts: bool) -> int | None:
    """Display time stamp of a frame decoded on one thread, in units of the stream's time base; None where unknown."""
    return frame.dts if by_dts and frame.dts is not None else frame.pts


def _unit_length_bytes(codec: av.VideoCodecContext) -> int:
    """Bytes of the length before each unit (NAL) of an H.264 or H.265 packet; 0 where units carry no length."""
    place = {"h264": 4, "hevc": 21}.get(codec.name)
    header = codec.extradata or b""
    return (header[place] & 3) + 1 if place and len(header) > place and header[0] == 1 else 0


def _adds_up(packet: av.Packet, length_bytes: int) -> bool:
    """Whether the units of a packet fill it exactly."""
    if not length_bytes:
        return True
    data, at = memoryview(packet), 0
    while at < len(data):
        at += length_bytes + int.from_bytes(data[at : at + length_bytes], "big")
    return at == len(data)


def _index(
    path: str, shown: Sequence[IndexedPacket], time_base: float, fps: float | None, **known: object
) -> FrameIndex:
    stamps, decode_stamps, durations, is_key, _ = (np.array(column) for column in zip(*shown, strict=True))
    if (np.diff(stamps) == 0).any():
        raise UnreadableVideo(f"{path}: several frames carry the same time stamp")
    seconds = (stamps[-1] - stamps[0]) * time_base
    mean_gap = seconds / max(1, len(stamps) - 1)
    end = seconds + (durations[-1] * time_base or mean_gap)
    if end > MAX_MEAN_FRAME_S * len(stamps):
        raise UnreadableVideo(f"{path}: no plausible frame rate, {len(stamps)} frames take {end:.0f} s")
    fps = fps or (1 / mean_gap if mean_gap else None)
    return FrameIndex(stamps, decode_stamps, is_key, time_base, float(end), fps, **known)


@dataclass(frozen=True)
class _PackedIndex:
    """A compressed `FrameIndex`, of some kilobytes for an hour of video."""

    first: int
    steps: bytes
    delays: bytes
    is_key: bytes
    rest: tuple

    @classmethod
    def of(cls, index: FrameIndex) -> "_PackedIndex":
        arrays = np.diff(index.stamps), index.stamps - index.decode_stamps, np.packbits(index.is_key)
        shown = (index.by_dts, index.orientation, index.decord_obstacle, index.repeats)
        rest = (index.time_base, index.end, index.fps, *shown)
        return cls(int(index.stamps[0]), *(zlib.compress(array.tobytes(), 1) for array in arrays), rest)

    def unpack(self) -> FrameIndex:
        steps, delays = (np.frombuffer(zlib.decompress(data), dtype=np.int64) for data in (self.steps, self.delays))
        stamps = self.first + np.concatenate([[0], np.cumsum(steps)])
        bits = np.frombuffer(zlib.decompress(self.is_key), dtype=np.uint8)
        return FrameIndex(stamps, stamps - delays, np.unpackbits(bits, count=len(stamps)).astype(bool), *self.rest)


def _average_rate(stream: av.VideoStream) -> float | None:
    return float(stream.average_rate) if stream.average_rate else None


def video_length(path: str | Path) -> tuple[float, float | None]:
    """Length in seconds and frames per second, from the header if it states them, else from the packets.

    Raises:
        UnreadableVideo: if the file cannot be opened or holds no video.
    """
    try:
        with open_video(path) as container:
            stream = container.streams.best("video")
            rate, states_length = _average_rate(stream), container.format.name not in WITHOUT_LENGTH
            if rate and states_length and stream.duration:
                return float(stream.duration * stream.time_base), rate
            if rate and states_length and container.duration:
                return container.duration / av.time_base, rate
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(f"{path}: {error.strerror or error}") from error
    index = index_frames(path)
    return index.end, index.fps
