"""Why decord 0.6 would not read a file as PyAV does, judged by header, packets and first frame."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import av

from autoencoder.data.orientation import AS_STORED, Orientation

# Formats for which decord was found to give the pixels of PyAV to the bit. It fails on MPEG streams, GIF and AV1, and
# gives other colours for more than 8 bits, palettes, odd sides and interlaced pictures.
CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")
CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "mjpeg")
PIXEL_FORMATS = ("yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p")
PROGRESSIVE = (0, 1)  # orders of fields (AVFieldOrder): unknown, and none
# Rows of a picture are padded to a whole number of this many pixels, or less where the processor asks for less.
ROW_PIXELS = 64


class IndexedPacket(NamedTuple):
    """A packet of a frame that is displayed; packets sort by display time.

    Attributes:
        pts, dts, duration: in units of the stream's time base.
        is_key: whether decoding can start at it.
        place: index among these packets in the order of the file, which is that of decoding.
    """

    pts: int
    dts: int
    duration: int
    is_key: bool
    place: int


def format_obstacles(
    container: av.container.InputContainer, stream: av.VideoStream, first: av.VideoFrame | None, shown: Orientation
) -> Mapping[str, bool]:
    """Reasons that lie in the format of the file, and whether they hold.

    Args:
        container: the open file.
        stream: its video.
        first: a decoded frame; None where none decodes.
        shown: orientation of the picture.
    """
    codec = stream.codec_context
    is_mov = container.format.name == CONTAINERS[0]
    sides = (codec.width, codec.height)
    field_order = getattr(codec, "field_order", 0)  # PyAV has it from 18.1 on; before, the first frame has to do
    return {
        f"it is a {container.format.name} file": container.format.name not in CONTAINERS,
        f"its codec is {codec.name}": codec.name not in CODECS,
        f"its pixel format is {codec.pix_fmt}": codec.pix_fmt not in PIXEL_FORMATS,
        "a side of its picture is odd": any(side % 2 for side in sides),
        "it is interlaced": field_order not in PROGRESSIVE or (first is not None and first.interlaced_frame),
        "its first frame does not decode": first is None,
        "its picture is mirrored or turned in a way decord does not know": shown.is_mirrored
        or (shown != AS_STORED and not is_mov),
        "it carries an old tag that turns the picture": not is_mov and "rotate" in map(str.lower, stream.metadata),
        "the rows of the picture are so short that their padding may look like a fourth colour": _may_look_wide(
            sides[shown.transposed]
        ),
    }


def _may_look_wide(width: int) -> bool:
    return 3 * math.ceil(width / ROW_PIXELS) * ROW_PIXELS >= 4 * width


def order_obstacles(shown: Sequence[IndexedPacket], is_avi: bool) -> Mapping[str, bool]:
    """Reasons that lie in the order of the packets, and whether they hold.

    decord seeks to a key frame by its display time and then counts frames; these are the cases where that gives others.

    Args:
        shown: packets in the order of display; at least one.
        is_avi: whether the container stores decoding times only, and seeks by them.
    """
    return {
        "its first frame is no key frame": not shown[0].is_key,
        "frames stored after a key frame are shown before it": any(
            packet.is_key and packet.place != place for place, packet in enumerate(shown)
        ),
        "it is an AVI file with frames stored out of order": is_avi and any(p.pts != p.dts for p in shown),
    }


def is_utf8(path: str | Path) -> bool:
    """Whether the name of a file is valid UTF-8, which decord needs."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
