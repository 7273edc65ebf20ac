"""Which way up a picture is shown: the eight orientations of the display matrix.

The matrix is applied as `ffmpeg -autorotate` and the players do it. Its scale and its shift are ignored, and so is the
tag `rotate` of old files, which FFmpeg no longer reads either. Pixels that are not square stay as they are stored:
clips are cut from the stored grid, and a written file states the aspect of its pixels.
"""

import math
import struct
from typing import NamedTuple

import av
import numpy as np

TOLERANCE_DEGREES = 1.0  # that of ffmpeg
MATRIX_FORMAT = "<9i"


class OddAngle(ValueError):
    """A display matrix turns by another angle than a multiple of 90 degrees."""


class Orientation(NamedTuple):
    """How a stored picture becomes the one that is shown: first transposed, then flipped.

    Attributes:
        transposed: whether rows and columns change places.
        flipped_rows: whether the order of the rows is reversed, top against bottom.
        flipped_columns: whether the order of the columns is reversed, left against right.
    """

    transposed: bool = False
    flipped_rows: bool = False
    flipped_columns: bool = False

    @property
    def is_mirrored(self) -> bool:
        """Whether it includes a reflection, not just a rotation."""
        return sum(self) % 2 == 1

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """The picture (H, W, ...) as it is shown; a view."""
        if self.transposed:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.flipped_rows else 1, :: -1 if self.flipped_columns else 1]


AS_STORED = Orientation()


def orientation_of(matrix: bytes | None) -> Orientation:
    """The orientation that a display matrix asks for.

    Args:
        matrix: nine native 32-bit integers a b u, c d v, x y w: the pixel (p, q) goes to (a p + c q, b p + d q). None,
            and one that maps everything to a point, leave the picture as it is.

    Raises:
        OddAngle: if it turns by another angle than a multiple of 90 degrees.
    """
    if matrix is None:
        return AS_STORED
    a, b, _, c, d, *_ = struct.unpack(MATRIX_FORMAT, matrix)
    if not (a or b) or not (c or d):
        return AS_STORED
    angle = math.degrees(math.atan2(b, a)) % 360
    quarters = round(angle / 90)
    if abs(angle - 90 * quarters) > TOLERANCE_DEGREES:
        raise OddAngle(f"its display matrix turns the picture by {angle:.0f} degrees, not by a multiple of 90")
    if quarters % 2:
        return Orientation(True, flipped_rows=b < 0, flipped_columns=c < 0)
    return Orientation(False, flipped_rows=d < 0, flipped_columns=a < 0)


def orientation_of_frame(frame: av.VideoFrame) -> Orientation:
    """The orientation that a decoded frame carries.

    Meant for the first frame of a file, not for each: reading side data makes a cycle of references, which keeps the
    frame, and the threads of its conversion where it was converted, until the garbage collector comes; in a forked
    worker that would wait for threads that are not there.

    Raises:
        OddAngle: if it turns by another angle than a multiple of 90 degrees.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return orientation_of(None if matrix is None else bytes(matrix))
