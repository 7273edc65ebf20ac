"""Moving shapes, made on the fly: the data set that needs no download.

A clip shows one shape of one colour on a plain background, swinging along one axis. The classes are all pairs of a
shape and a motion, so that either can be exchanged between clips.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from autoencoder.common.errors import UserError
from autoencoder.common.seeding import derive_seed

MOTIONS = ("horizontal", "vertical")
SPLITS = {"train": (0, 20_000), "val": (1 << 30, 1_000)}  # first index and number of clips; disjoint
AREA_SHARE = (0.08, 0.20)
MIN_COLOUR_DISTANCE = 0.5  # of RGB in [0, 1]


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - np.sqrt(1 / np.pi)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(abs(x), abs(y)) - 0.5


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    inradius = np.sqrt(1 / (3 * np.sqrt(3)))
    return np.maximum(y, abs(x) * np.sqrt(3) / 2 - y / 2) - inradius


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    arm = 0.5 / np.sqrt(5)  # half the width of an arm; the arms are three widths long
    long, short = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    return np.maximum(long - 3 * arm, short - arm)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    outer = np.sqrt(1 / (0.75 * np.pi))  # the hole has half the radius
    return abs(np.hypot(x, y) - 0.75 * outer) - 0.25 * outer


# Signed distances, negative inside, of shapes of area 1 with their centroid at the origin; y points down.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}
CLASS_NAMES = tuple(f"{shape}_{motion}" for shape in SHAPES for motion in MOTIONS)


def coverage(shape: str, area: float, centre_x: np.ndarray, centre_y: np.ndarray, size: int) -> np.ndarray:
    """Share of every pixel that the shape covers.

    Args:
        shape: a key of `SHAPES`.
        area: in pixels.
        centre_x, centre_y: (T,) centroid per frame, in pixels from the left and the top edge.
        size: height and width of the frame.

    Returns:
        float64 (T, size, size) in [0, 1].
    """
    centres = np.arange(size) + 0.5
    scale = np.sqrt(area)
    x = (centres[None, None, :] - centre_x[:, None, None]) / scale
    y = (centres[None, :, None] - centre_y[:, None, None]) / scale
    return np.clip(0.5 - SHAPES[shape](x, y) * scale, 0.0, 1.0)


@cache
def _extent(shape: str) -> np.ndarray:
    """Distance from the centroid to the left, right, upper and lower edge of the shape of area 1: (4,)."""
    fine = np.linspace(-1.5, 1.5, 601)
    inside = SHAPES[shape](fine[None, :], fine[:, None]) <= 0
    columns, rows = fine[inside.any(axis=0)], fine[inside.any(axis=1)]
    return np.array([-columns[0], columns[-1], -rows[0], rows[-1]])


class Shapes:
    """The data set of moving shapes, a `ClipDataset`.

    Clip i depends on i and the split alone. Its class is i modulo 10.

    Args:
        num_frames: frames of a clip, at least 8 so that a motion can be seen.
        size: height and width, at least 32 pixels.
        split: "train" or "val", which share no clip.

    Raises:
        UserError: if the clip is too small or the split unknown.
    """

    class_names = CLASS_NAMES
    flip_invariant = False

    def __init__(self, num_frames: int = 16, size: int = 32, split: str = "train"):
        if num_frames < 8 or size < 32:
            raise UserError(
                f"shapes are made at 8 frames of 32 x 32 or more, got {num_frames} frames of {size} x {size}"
            )
        if split not in SPLITS:
            raise UserError(f"split={split!r} is none of {', '.join(SPLITS)}")
        self.num_frames, self.size = num_frames, size
        self.first, self.count = SPLITS[split]

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> int:
        """Class id of a clip, an index into `CLASS_NAMES`."""
        return index % len(CLASS_NAMES)

    def source(self, index: int) -> str:
        """Name of a clip for messages."""
        return f"shapes[{self.first + index}]"

    def clip(self, index: int, rng: np.random.Generator | None = None) -> torch.Tensor:
        """Clip `index`, uint8 (T, H, W, 3); `rng` is ignored."""
        shape, motion = CLASS_NAMES[self.label(index)].split("_")
        draw = np.random.default_rng(derive_seed("shapes", self.first + index))
        area = draw.uniform(*AREA_SHARE) * self.size**2
        left, right, up, down = np.sqrt(area) * _extent(shape)
        background, colour = self._colours(draw)

        room = {"horizontal": (left, self.size - right), "vertical": (up, self.size - down)}
        swing_low, swing_high = room.pop(motion)
        amplitude = draw.uniform(0.6, 1.0) * (swing_high - swing_low) / 2
        start = draw.uniform(swing_low + amplitude, swing_high - amplitude)
        cycles, phase = draw.uniform(0.75, 1.75), draw.uniform()
        time = np.arange(self.num_frames) / self.num_frames
        along = start + amplitude * np.sin(2 * np.pi * (cycles * time + phase))
        across = np.full(self.num_frames, draw.uniform(*room.popitem()[1]))

        centres = (along, across) if motion == "horizontal" else (across, along)
        alpha = coverage(shape, area, *centres, self.size)[..., None]
        frames = (1 - alpha) * background + alpha * colour
        return torch.from_numpy((255 * frames).round().astype(np.uint8))

    @staticmethod
    def _colours(draw: np.random.Generator) -> np.ndarray:
        while True:
            colours = draw.uniform(size=(2, 3))
            if np.linalg.norm(colours[0] - colours[1]) >= MIN_COLOUR_DISTANCE:
                return colours
