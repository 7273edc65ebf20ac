"""What the packets of a video file say about its frames; nothing is decoded here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

# A header that claims more than this beyond the last frame is a sign that the end of the file is missing.
END_TOLERANCE_S = 0.25
# decord 0.6 takes the padding at the end of a row for a fourth colour at some widths below this (48, 72, 144, ...).
MIN_DECORD_SIDE = 192


class UnreadableVideo(Exception):
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
        UnreadableVideo: if it is empty or holds no video stream.
        OSError, av.FFmpegError: if it cannot be opened.
    """
    with open(path, "rb") as file:  # OSError here says more than the demuxer's
        if not file.read(1):
            raise UnreadableVideo(f"{path}: the file is empty")
    container = av.open(str(path))
    if container.streams.best("video") is None:
        container.close()
        raise UnreadableVideo(f"{path}: it holds no video stream")
    return container


def index_frames(path: str | Path) -> FrameIndex:
    """Read the time stamps of all frames; nothing is decoded.

    Raises:
        UnreadableVideo: if the file cannot be opened or holds no frames with distinct time stamps.
    """
    try:
        with open_video(path) as container:
            stream = container.streams.best("video")
            time_base, fps = float(stream.time_base), _average_rate(stream)
            claimed_s = (container.duration or 0) / av.time_base
            is_avi, side = "avi" in container.format.name, min(stream.codec_context.width, stream.codec_context.height)
            shown, has_hidden, has_torn = _read_packets(container, stream)
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
        f"the picture has a side below {MIN_DECORD_SIDE} pixels": side < MIN_DECORD_SIDE,
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
