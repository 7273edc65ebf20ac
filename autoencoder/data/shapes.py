"""Moving shapes, made on the fly: the data set that needs no download.

A clip shows one shape of one colour on a plain background, swinging along one axis: a content in a motion. The classes
are all pairs of a shape and a motion, so that either can be exchanged between clips; any content can be rendered in any
motion. A further shape, which is in no class unless it is asked for, is there to be learnt later.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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


def _diamond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (abs(x) + abs(y) - np.sqrt(0.5)) * np.sqrt(0.5)


# Signed distances, negative inside, of shapes of area 1 with their centroid at the origin; y points down.
Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]
SHAPES: dict[str, Outline] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}
FURTHER_SHAPES: dict[str, Outline] = {"diamond": _diamond}
ALL_SHAPES = SHAPES | FURTHER_SHAPES
CLASS_NAMES = tuple(f"{shape}_{motion}" for shape in SHAPES for motion in MOTIONS)
ALL_CLASS_NAMES = tuple(f"{shape}_{motion}" for shape in ALL_SHAPES for motion in MOTIONS)


def shapes_of(class_names: Iterable[str]) -> tuple[str, ...]:
    """The shapes to tell apart where there are these classes: the five of `SHAPES`, and further ones that they name."""
    named = {name.split("_")[0] for name in class_names}
    return (*SHAPES, *(shape for shape in FURTHER_SHAPES if shape in named))


def coverage(shape: str, area: float, centre_x: np.ndarray, centre_y: np.ndarray, size: int) -> np.ndarray:
    """Share of every pixel that the shape covers.

    Args:
        shape: a key of `ALL_SHAPES`.
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
    return np.clip(0.5 - ALL_SHAPES[shape](x, y) * scale, 0.0, 1.0)


@cache
def _extent(shape: str) -> np.ndarray:
    """Distance from the centroid to the left, right, upper and lower edge of the shape of area 1: (4,)."""
    fine = np.linspace(-1.5, 1.5, 601)
    inside = ALL_SHAPES[shape](fine[None, :], fine[:, None]) <= 0
    columns, rows = fine[inside.any(axis=0)], fine[inside.any(axis=1)]
    return np.array([-columns[0], columns[-1], -rows[0], rows[-1]])


@dataclass(frozen=True)
class Content:
    """What a clip shows.

    Attributes:
        shape: a key of `ALL_SHAPES`.
        area: of the shape, in pixels.
        background, colour: RGB of the background and of the shape, each float64 (3,) in [0, 1].
    """

    shape: str
    area: float
    background: np.ndarray
    colour: np.ndarray

    @property
    def extent(self) -> np.ndarray:
        """Pixels from the centroid to the left, right, upper and lower edge of the shape: (4,)."""
        return np.sqrt(self.area) * _extent(self.shape)


@dataclass(frozen=True)
class Motion:
    """How the content of a clip moves.

    Attributes:
        axis: one of `MOTIONS`.
        path: float64 (T, 2), the centroid's x and y per frame, in pixels from the left and the top edge.
    """

    axis: str
    path: np.ndarray


def draw_content(shape: str, size: int, rng: np.random.Generator) -> Content:
    """Draw area and colours; the two colours are `MIN_COLOUR_DISTANCE` apart or more.

    Args:
        shape: a key of `ALL_SHAPES`.
        size: height and width of the frame, of which the shape covers a share in `AREA_SHARE`.
        rng: draws them.
    """
    area = rng.uniform(*AREA_SHARE) * size**2
    while True:
        background, colour = rng.uniform(size=(2, 3))
        if np.linalg.norm(background - colour) >= MIN_COLOUR_DISTANCE:
            return Content(shape, area, background, colour)


def draw_motion(
    axis: str, extent: np.ndarray, num_frames: int, size: int, rng: np.random.Generator, later: float = 0.0
) -> Motion:
    """Draw a swing along one axis that keeps a shape of this extent within the frame.

    Args:
        axis: one of `MOTIONS`.
        extent: as of `Content.extent`.
        num_frames: frames of the clip.
        size: height and width of the frame.
        rng: draws place, amplitude, frequency and phase.
        later: see the swing this many lengths of the clip later; what `rng` draws does not depend on it.
    """
    left, right, up, down = extent
    room = {"horizontal": (left, size - right), "vertical": (up, size - down)}
    swing_low, swing_high = room.pop(axis)
    amplitude = rng.uniform(0.6, 1.0) * (swing_high - swing_low) / 2
    middle = rng.uniform(swing_low + amplitude, swing_high - amplitude)
    cycles, phase = rng.uniform(0.75, 1.75), rng.uniform()
    time = np.arange(num_frames) / num_frames + later
    along = middle + amplitude * np.sin(2 * np.pi * (cycles * time + phase))
    across = np.full(num_frames, rng.uniform(*room.popitem()[1]))
    return Motion(axis, np.stack((along, across) if axis == "horizontal" else (across, along), axis=1))


def render(content: Content, motion: Motion, size: int) -> torch.Tensor:
    """The clip that shows a content in a motion; what leaves the frame is cut off.

    Args:
        content: what is shown.
        motion: how it moves, drawn for frames of the same size.
        size: height and width of the frame.

    Returns:
        uint8 (T, size, size, 3).
    """
    alpha = coverage(content.shape, content.area, *motion.path.T, size)[..., None]
    frames = (1 - alpha) * content.background + alpha * content.colour
    return torch.from_numpy((255 * frames).round().astype(np.uint8))


class Shapes:
    """The data set of moving shapes, a `ClipDataset`.

    Clip i depends on i, the split and the choice of classes alone. Its class is i modulo the number of classes.

    Args:
        num_frames: frames of a clip, at least 2 so that a motion can be seen.
        size: height and width, at least 32 pixels.
        split: "train" or "val", which share no clip.
        classes: names of `ALL_CLASS_NAMES`, whose order the ids keep to; None takes `CLASS_NAMES`.

    Raises:
        UserError: if the clip is too small, or the split or a class unknown.
    """

    class_names = CLASS_NAMES
    flip_invariant = False

    def __init__(
        self, num_frames: int = 16, size: int = 32, split: str = "train", classes: Sequence[str] | None = None
    ):
        if num_frames < 2 or size < 32:
            raise UserError(
                f"shapes are made at 2 frames of 32 x 32 or more, got {num_frames} frames of {size} x {size}"
            )
        if split not in SPLITS:
            raise UserError(f"split={split!r} is none of {', '.join(SPLITS)}")
        if unknown := [name for name in classes or () if name not in ALL_CLASS_NAMES]:
            raise UserError(f"there are no moving shapes {unknown[0]!r}, there are: {', '.join(ALL_CLASS_NAMES)}")
        if classes is not None:
            self.class_names = tuple(name for name in ALL_CLASS_NAMES if name in classes)
        self.num_frames, self.size = num_frames, size
        self.first, self.count = SPLITS[split]

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> int:
        """Class id of a clip, an index into `class_names`."""
        return index % len(self.class_names)

    def source(self, index: int) -> str:
        """Name of a clip for messages."""
        return f"shapes[{self.first + index}]"

    def content(self, index: int) -> Content:
        """What clip `index` shows."""
        return self._drawn(index)[0]

    def motion(self, index: int, later: float = 0.0) -> Motion:
        """How it moves there; with `later`, that many lengths of the clip after it."""
        return self._clip(index, later)[1]

    def clip(self, index: int, rng: np.random.Generator | None = None) -> torch.Tensor:
        """Clip `index`, uint8 (T, H, W, 3); `rng` is ignored."""
        return render(*self._clip(index), self.size)

    def companion(self, index: int, rng: np.random.Generator, same_clip: bool = False) -> torch.Tensor:
        """The content of clip `index` in another motion.

        Args:
            index: which clip.
            rng: draws the motion.
            same_clip: whether it is the clip's own swing, seen up to one length of the clip later, instead of one
                whose axis, place, amplitude, frequency and phase are drawn anew.

        Returns:
            uint8 (T, H, W, 3).
        """
        if same_clip:
            return render(*self._clip(index, later=rng.uniform()), self.size)
        content, axis = self.content(index), MOTIONS[rng.integers(len(MOTIONS))]
        return render(content, draw_motion(axis, content.extent, self.num_frames, self.size, rng), self.size)

    def _clip(self, index: int, later: float = 0.0) -> tuple[Content, Motion]:
        content, draw = self._drawn(index)
        axis = self.class_names[self.label(index)].split("_")[1]
        return content, draw_motion(axis, content.extent, self.num_frames, self.size, draw, later)

    def _drawn(self, index: int) -> tuple[Content, np.random.Generator]:
        """The content of a clip, and the generator that goes on to draw its motion."""
        draw = np.random.default_rng(derive_seed("shapes", self.first + index))
        shape = self.class_names[self.label(index)].split("_")[0]
        return draw_content(shape, self.size, draw), draw
