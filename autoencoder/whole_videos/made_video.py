"""Moving shapes in the place of video files."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from autoencoder.data.shapes import Shapes, render
from autoencoder.whole_videos.video_file import TimedFrame, VideoFormat

LENGTHS = 2  # of a clip: two moments of one swing


@dataclass(frozen=True)
class MadeVideo:
    """A held-out clip of the moving shapes and how it goes on, made as it is read; read like a `VideoFile`.

    Attributes:
        shapes: the data set.
        index: which of its clips.
    """

    shapes: Shapes
    index: int
    repeats: ClassVar[int] = 1

    @property
    def format(self) -> VideoFormat:
        """Its size and rate."""
        size = self.shapes.size
        return VideoFormat(size, size, rate=Fraction(8), time_base=Fraction(1, 8))

    @property
    def num_frames(self) -> int:
        """Two lengths of a clip."""
        return LENGTHS * self.shapes.num_frames

    def frames(self) -> Iterator[TimedFrame]:
        """All frames in the order of display."""
        stamp = 0
        for later in range(LENGTHS):
            content, motion = self.shapes.content(self.index), self.shapes.motion(self.index, later)
            for pixels in render(content, motion, self.shapes.size):
                yield TimedFrame(pixels, stamp, 1)
                stamp += 1
