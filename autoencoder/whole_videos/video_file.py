"""Whole video files, frame by frame: read with their time stamps, written with the stamps and the audio of another.

PyAV does both, because it knows the stamp of every frame. Memory does not grow with the length of the file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.codec.context import Flags

from autoencoder.common.errors import UserError
from autoencoder.common.files import atomic_path
from autoencoder.data.frame_index import (
    UnreadableVideo,
    counts_by_decoding,
    index_frames,
    open_video,
    reason_of,
    repeats_of,
    stamp_of,
)
from autoencoder.data.orientation import AS_STORED, OddAngle, Orientation, orientation_of_frame

CONTAINERS = (".mp4", ".mov", ".mkv")
CRF = "12"  # near lossless
BT709, UNSPECIFIED = 1, 2  # colour matrices by their number in the standards (ITU-T H.273)


class TimedFrame(NamedTuple):
    """A frame and when it is shown.

    Attributes:
        pixels: uint8 (H, W, 3), upright.
        stamp: when it appears, in units of the video's time base.
        duration: how long it is meant to stay, likewise.
    """

    pixels: torch.Tensor
    stamp: int
    duration: int


@dataclass(frozen=True)
class VideoFormat:
    """Size, rate, time base and colours of a video.

    Attributes:
        width, height: pixels of the upright picture.
        rate: average frames per second.
        time_base: seconds per unit of the time stamps.
        pixel_aspect: width over height of a pixel.
        colorspace: matrix between RGB and YUV (ITU-T H.273).
    """

    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    pixel_aspect: Fraction = Fraction(1)
    colorspace: int = UNSPECIFIED

    def to_json(self) -> dict[str, int | str]:
        """The fields, fractions as text such as "30000/1001"."""
        return {name: str(value) if isinstance(value, Fraction) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, fields: dict[str, int | str]) -> "VideoFormat":
        """The inverse of `to_json`."""
        return cls(**{name: Fraction(value) if isinstance(value, str) else value for name, value in fields.items()})


@dataclass(frozen=True)
class VideoFile:
    """A video file that `open_file` has scanned.

    Attributes:
        path: the file's path.
        format: the video's format.
        num_frames: frames by the packets of the file. A damaged file may decode to fewer.
        origin: time stamp from which the file counts frames of one length, where its time base (1 ms in Matroska) is
            too coarse to say so; None where stamps are taken as they are.
        stored_time_base: seconds per unit of the file's own stamps.
        orientation: how the stored picture is displayed.
        repeats: how often each pixel is repeated in either direction; models see such frames `unrepeated`.
    """

    path: Path
    format: VideoFormat
    num_frames: int
    origin: int | None
    stored_time_base: Fraction
    orientation: Orientation = AS_STORED
    repeats: int = 1

    def frames(self) -> Iterator[TimedFrame]:
        """Decode all frames in the order of display.

        Raises:
            UnreadableVideo: at a frame that is damaged, has no time stamp or one that does not follow the former, or
                has another size than the first.
        """
        latest = None
        default = max(1, round(1 / (self.format.rate * self.stored_time_base)))
        try:
            with open_video(self.path) as container:
                stream = container.streams.best("video")
                by_dts = counts_by_decoding(container, stream)
                for frame in container.decode(stream):
                    stored = stamp_of(frame, by_dts)
                    if frame.is_corrupt:
                        raise UnreadableVideo(f"{self.path}: the frame at {frame.time} s is damaged")
                    if stored is None:
                        raise UnreadableVideo(f"{self.path}: it has a frame without a time stamp")
                    stamp, duration = self._timing(stored, frame.duration or default)
                    if latest is not None and stamp <= latest:
                        raise UnreadableVideo(f"{self.path}: its time stamps do not follow the order of its frames")
                    latest = stamp
                    pixels = _upright(frame, self.orientation)
                    if pixels.shape[:2] != (self.format.height, self.format.width):
                        raise UnreadableVideo(f"{self.path}: the size of the picture changes at {frame.time:.3f} s")
                    yield TimedFrame(torch.from_numpy(pixels), stamp, duration)
        except (av.FFmpegError, OSError) as error:
            raise UnreadableVideo(f"{self.path}: {reason_of(error)}") from error

    def _timing(self, stamp: int, duration: int) -> tuple[int, int]:
        """Stamp and duration in units of the format's time base."""
        if self.origin is None:
            return stamp, duration
        units = self.stored_time_base / self.format.time_base
        return round((stamp - self.origin) * units) + round(self.origin * units), max(1, round(duration * units))


def open_file(path: str | Path) -> VideoFile:
    """Scan the packets of a video file, and decode its first frame.

    Time stamps are kept as they are, so a variable frame rate is kept, too. Where the time base of the file cannot
    express its frame rate and the stamps are those of a constant rate, rounded, the exact stamps replace them.

    Raises:
        UnreadableVideo: if the file cannot be opened, holds no frame, or states no frame rate.
    """
    try:
        with open_video(path) as container:
            stream = container.streams.best("video")
            rate, time_base = stream.average_rate or stream.guessed_rate, stream.time_base
            if not rate:
                rate = _rate_of_packets(path)
            repeated = repeats_of(container, stream)
            num_frames, origin, on_grid = _scan(container, stream, rate * time_base)
        with open_video(path) as container:
            stream = container.streams.best("video")
            first = next(container.decode(stream), None)
            if first is None:
                raise UnreadableVideo(f"{path}: no frame of it decodes")
            shown_as = orientation_of_frame(first)
            width, height = (first.height, first.width) if shown_as.transposed else (first.width, first.height)
            aspect, colorspace = stream.sample_aspect_ratio or Fraction(1), first.colorspace
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(f"{path}: {error.strerror or error}") from error
    except OddAngle as error:
        raise UnreadableVideo(f"{path}: {error}") from error
    snap = on_grid and (1 / (rate * time_base)).denominator != 1
    form = VideoFormat(
        width=width,
        height=height,
        rate=rate,
        time_base=1 / rate if snap else time_base,
        pixel_aspect=1 / aspect if shown_as.transposed else aspect,
        colorspace=colorspace,
    )
    return VideoFile(Path(path), form, num_frames, origin if snap else None, time_base, shown_as, repeated)


def _rate_of_packets(path: str | Path) -> Fraction:
    """Frames per second of a file that states none.

    Raises:
        UnreadableVideo: if it holds a single frame.
    """
    fps = index_frames(path).fps
    if fps is None:
        raise UnreadableVideo(f"{path}: it states no frame rate")
    return Fraction(fps).limit_denominator(1001)


def _scan(
    container: av.container.InputContainer, stream: av.VideoStream, frames_per_unit: Fraction
) -> tuple[int, int, bool]:
    """Number of displayed packets, stamp of the first, and whether all lie whole frames from it, up to rounding."""
    count, origin, on_grid = 0, None, True
    for packet in container.demux(stream):
        if packet.pts is None or packet.is_discard or not packet.size:
            continue
        count += 1
        origin = packet.pts if origin is None else origin
        place = (packet.pts - origin) * frames_per_unit
        on_grid &= abs(place - round(place)) <= frames_per_unit
    return count, origin, on_grid


def _upright(frame: av.VideoFrame, orientation: Orientation) -> np.ndarray:
    """uint8 (H, W, 3): the picture as it is shown."""
    return np.ascontiguousarray(orientation.apply(frame.to_ndarray(format="rgb24")))


class VideoWriter:
    """Writes frames into an open container; made by `open_writer`."""

    def __init__(self, container: av.container.OutputContainer, form: VideoFormat, audio: "_Audio"):
        self._container, self._format, self._audio = container, form, audio
        self._stream = container.add_stream("libx264", rate=form.rate, options={"crf": CRF})
        codec = self._stream.codec_context
        codec.width, codec.height = form.width, form.height
        # 4:2:0 halves both sides, so odd ones need colour at full size.
        codec.pix_fmt = "yuv444p" if form.width % 2 or form.height % 2 else "yuv420p"
        codec.time_base, codec.sample_aspect_ratio = form.time_base, form.pixel_aspect
        codec.flags |= Flags.frame_duration
        if form.colorspace == BT709:
            codec.colorspace = BT709
        self._end = Fraction(0)  # second at which the last frame stops being shown

    def write(self, pixels: torch.Tensor | np.ndarray, stamp: int, duration: int) -> None:
        """Append a frame.

        Args:
            pixels: uint8 (H, W, 3) of the size of the format.
            stamp, duration: in units of the format's time base; stamps increase.

        Raises:
            ValueError: if the frame has another shape or dtype.
        """
        pixels = np.ascontiguousarray(pixels)
        if pixels.dtype != np.uint8 or pixels.shape != (self._format.height, self._format.width, 3):
            expected = f"uint8 ({self._format.height}, {self._format.width}, 3)"
            raise ValueError(f"a frame must be {expected}, got {pixels.dtype} {pixels.shape}")
        matrix = BT709 if self._format.colorspace == BT709 else None
        pix_fmt = self._stream.codec_context.pix_fmt
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt, dst_colorspace=matrix)
        frame.pts, frame.duration, frame.time_base = stamp, duration, self._format.time_base
        self._mux(self._stream.encode(frame))
        self._end = (stamp + duration) * self._format.time_base

    def finish(self, whole_audio: bool) -> None:
        """Flush the encoder, and write the audio up to the end of the pictures, or to its own end."""
        self._mux(self._stream.encode(None))
        self._mux_audio(None if whole_audio else self._end)

    def _mux(self, packets: list[av.Packet]) -> None:
        """Write video packets, each after the audio that comes before it in time."""
        for packet in packets:
            self._mux_audio(packet.dts * packet.time_base)
            self._container.mux(packet)

    def _mux_audio(self, until: Fraction | None) -> None:
        for packet in self._audio.until(until):
            self._container.mux(packet)


class _Audio:
    """The audio packets of a file in order of time, for writing to another container."""

    def __init__(self, source: av.container.InputContainer | None, target: av.container.OutputContainer):
        streams = source.streams.audio if source else ()
        self._copies = {stream.index: _copy_of(stream, target) for stream in streams}
        packets = source.demux(*streams) if streams else ()
        self._packets = (packet for packet in packets if packet.dts is not None)
        self._next = next(self._packets, None)

    def until(self, seconds: Fraction | None) -> Iterator[av.Packet]:
        """The packets that begin before `seconds`; all that are left for None."""
        while self._next is not None and (seconds is None or self._next.dts * self._next.time_base < seconds):
            packet, self._next = self._next, next(self._packets, None)
            packet.stream = self._copies[packet.stream.index]
            yield packet


def _copy_of(stream: av.AudioStream, target: av.container.OutputContainer) -> av.AudioStream:
    try:
        return target.add_stream_from_template(stream)
    except ValueError as error:
        raise UserError(
            f"audio of the codec {stream.codec_context.name} does not go into a {target.format.name} file as it is: "
            "a name ending in .mkv makes a container that takes more codecs, and --audio false leaves the audio out"
        ) from error


def check_output(path: str | Path, *inputs: str | Path) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Raises:
        UserError: if its ending is unknown, or it is one of the inputs.
    """
    if Path(path).suffix.lower() not in CONTAINERS:
        raise UserError(f"{path}: the name of the file must end in {', '.join(CONTAINERS)}")
    for source in inputs:
        if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise UserError(f"{path} is the input as well as the output: give the output another name")


@contextmanager
def open_writer(
    path: str | Path, form: VideoFormat, audio_of: str | Path | None = None, whole_audio: bool = True
) -> Iterator[VideoWriter]:
    """Write a video file (H.264, near lossless; 4:2:0, or 4:4:4 where a side is odd), atomically.

    Args:
        path: ends in .mp4, .mov or .mkv; missing folders are made.
        form: the video's format.
        audio_of: file whose audio tracks are copied packet by packet, if it has any.
        whole_audio: copy the audio to its end, rather than to that of the pictures.

    Raises:
        UserError: if the ending is unknown, or the container does not take the audio's codec.
    """
    check_output(path)
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        source = av.open(str(audio_of)) if audio_of is not None else None
        try:
            writer = VideoWriter(container, form, _Audio(source, container))
            yield writer
            writer.finish(whole_audio)
        finally:
            if source is not None:
                source.close()
