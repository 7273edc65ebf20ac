"""What the packets of a video file say about its frames; they are not decoded for it."""

import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from autoencoder.common.errors import UserError

# A header that claims more than this beyond the last frame is a sign that the end of the file is missing.
END_TOLERANCE_S = 0.25
# A file whose clock has 0 ticks per second is read as if it had one; its frames then last for minutes.
MAX_MEAN_FRAME_S = 60.0
# Rows of a picture are padded to a whole number of this many pixels, or less where the processor asks for less.
ROW_PIXELS = 64


class UnreadableVideo(UserError):
    """The file cannot give the wanted clip; the message names the file and the reason."""


@dataclass(frozen=True)
class FrameIndex:
    """What the packets of a video stream say about its frames, in the order of display.

    Attributes:
        stamps: int64 (N,) time stamps of display in units of the stream's time base, strictly increasing.
        decode_stamps: int64 (N,) those of decoding, never later than `stamps`.
        times: float64 (N,) seconds since the first frame.
        end: second at which the last frame stops being shown.
        fps: average frame rate; None where the file states none.
        is_key: bool (N,) whether decoding can start at the frame.
        decord_obstacle: why decord would not give the frames of this index; None where it does.
    """

    stamps: np.ndarray
    decode_stamps: np.ndarray
    times: np.ndarray
    end: float
    fps: float | None
    is_key: np.ndarray
    decord_obstacle: str | None


class _Packet(NamedTuple):
    pts: int
    dts: int
    duration: int
    is_key: bool
    place: int  # among the shown packets, in the order of the file, which is that of decoding


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
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        container.close()
        problem = "it holds no video stream" if stream is None else "there is no decoder for its video stream"
        raise UnreadableVideo(f"{path}: {problem}")
    return container


def index_frames(path: str | Path) -> FrameIndex:
    """Read the time stamps of all frames from their packets.

    Raises:
        UnreadableVideo: if the file cannot be opened, or holds no frames with distinct and plausible time stamps.
    """
    try:
        with open_video(path) as container:
            stream = container.streams.best("video")
            time_base, fps = float(stream.time_base), _average_rate(stream)
            claimed_s = (container.duration or 0) / av.time_base
            is_avi = "avi" in container.format.name
            shown, has_hidden, has_torn = _read_packets(container, stream)
            has_wide_padding = _has_wide_padding(container, stream)
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(f"{path}: {error.strerror or error}") from error
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
        "the rows of the picture are so short that their padding may look like a fourth colour": has_wide_padding,
        "its name is no UTF-8": not _is_utf8(path),
    } | _misleading_order(shown, is_avi)
    return _index(path, shown, time_base, fps, next((reason for reason, holds in obstacles.items() if holds), None))


def _read_packets(container: av.container.InputContainer, stream: av.VideoStream) -> tuple[list[_Packet], bool, bool]:
    """The packets to be shown, whether there are others, and whether one is not whole."""
    shown: list[_Packet] = []
    has_hidden = has_torn = False
    length_bytes = _unit_length_bytes(stream.codec_context)
    for packet in container.demux(stream):
        has_torn |= not _adds_up(packet, length_bytes)
        if packet.pts is None or packet.is_discard or packet.is_corrupt:
            has_hidden |= packet.size > 0  # the last packet is an empty end mark
        else:
            dts = packet.pts if packet.dts is None else packet.dts
            shown.append(_Packet(packet.pts, dts, packet.duration or 0, packet.is_keyframe, len(shown)))
    return shown, has_hidden, has_torn


def _misleading_order(shown: Sequence[_Packet], is_avi: bool) -> dict[str, bool]:
    """decord seeks to a key frame by its time of display, then counts frames. Where does that lead elsewhere?"""
    return {
        "its first frame is no key frame": not shown[0].is_key,
        "frames stored after a key frame are shown before it": any(
            packet.is_key and packet.place != place for place, packet in enumerate(shown)
        ),
        # AVI keeps, and seeks by, the time of decoding only.
        "it is an AVI file with frames stored out of order": is_avi and any(p.pts != p.dts for p in shown),
    }


def _has_wide_padding(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether decord 0.6 may take the padding at the end of a row for a fourth colour."""

    def may_be_wide(width: int) -> bool:
        return 3 * math.ceil(width / ROW_PIXELS) * ROW_PIXELS >= 4 * width

    size = stream.codec_context
    return may_be_wide(size.width) or (may_be_wide(size.height) and _may_be_turned(container, stream))


def _may_be_turned(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether width and height change places when the picture is shown; that takes decoding a frame to know."""
    stream.thread_type = "NONE"
    try:
        container.seek(stream.start_time or 0, stream=stream)
        frame = next(container.decode(stream), None)
    except av.FFmpegError:
        return True
    return frame is None or round(frame.rotation / 90) % 2 == 1


def _is_utf8(path: str | Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


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
    path: str | Path, shown: Sequence[_Packet], time_base: float, fps: float | None, decord_obstacle: str | None
) -> FrameIndex:
    stamps, decode_stamps, durations, is_key, _ = (np.array(column) for column in zip(*shown, strict=True))
    if (np.diff(stamps) == 0).any():
        raise UnreadableVideo(f"{path}: several frames carry the same time stamp")
    times = (stamps - stamps[0]) * time_base
    mean_gap = times[-1] / max(1, len(times) - 1)
    end = times[-1] + (durations[-1] * time_base or mean_gap)
    if end > MAX_MEAN_FRAME_S * len(times):
        raise UnreadableVideo(f"{path}: no plausible frame rate, {len(times)} frames take {end:.0f} s")
    return FrameIndex(stamps, decode_stamps, times, float(end), fps, is_key, decord_obstacle)


def _average_rate(stream: av.VideoStream) -> float | None:
    return float(stream.average_rate) if stream.average_rate else None


def video_length(path: str | Path) -> tuple[float, float | None]:
    """Seconds and frames per second as the header states them, without reading the rest of the file.

    Raises:
        UnreadableVideo: if the file cannot be opened, holds no video, or states no length.
    """
    try:
        with open_video(path) as container:
            stream = container.streams.best("video")
            if stream.duration:
                return float(stream.duration * stream.time_base), _average_rate(stream)
            if container.duration:
                return container.duration / av.time_base, _average_rate(stream)
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(f"{path}: {error.strerror or error}") from error
    raise UnreadableVideo(f"{path}: the header states no length")
