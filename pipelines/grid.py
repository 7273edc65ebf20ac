"""Several videos as one moving picture."""

import math
from collections.abc import Sequence

import numpy as np

from autoencoder.common.errors import UserError
from autoencoder.common.pictures import PanelRow, moving_panels
from autoencoder.common.upscaling import SHOWN_WIDTH, upscaled

MOST_COLUMNS, MOST_VIDEOS = 8, 64  # what is larger fits no screen
LARGE = 4  # so many videos are shown at their full width, more at half of it


def video_grid(
    clips: Sequence[np.ndarray],
    classes: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    upscale: str = "nearest",
) -> np.ndarray:
    """Lay videos out as one, in which all move together: a row for every class, or lines where each has one video.

    Args:
        clips: uint8 (T, H, W, 3) each, all of one shape; the first 64 are shown.
        classes: the class of each; None lays lines without classes.
        labels: what each is called in the row of its class, or without classes; numbers by default.
        upscale: as of `upscaled`, to a width of 256 pixels each, from five videos on of 128.

    Returns:
        uint8 (T, H, W, 3), H and W even.

    Raises:
        UserError: if `upscale` is unknown, or the videos are not of one shape.
    """
    if len(shapes := {clip.shape for clip in clips}) != 1:
        raise UserError(
            f"the videos of a grid must be of one shape, got {', '.join(map(str, sorted(shapes))) or 'none'}"
        )
    count = min(len(clips), MOST_VIDEOS)
    labels = list(map(str, range(count))) if labels is None else labels
    width = SHOWN_WIDTH if count <= LARGE else SHOWN_WIDTH // 2
    panels = [upscaled(clip, upscale, width)[0] for clip in clips[:count]]
    places = {name: [at for at in range(count) if classes[at] == name] for name in (classes or ())[:count]}
    if len(places) in (0, count):
        columns = math.ceil(count / max(1, round(math.sqrt(count / 2))))  # twice as wide as high
        rows = _rows("", range(count), panels, list(places) or labels, columns)
    else:
        rows = [row for name, own in places.items() for row in _rows(name, own, panels, labels, MOST_COLUMNS)]
    return _even(moving_panels(rows, 1))


def _rows(
    caption: str, places: Sequence[int], panels: Sequence[np.ndarray], labels: Sequence[str], columns: int
) -> list[PanelRow]:
    """Videos at some places, in lines of so many columns, the first one with the caption."""
    lines = [places[start : start + columns] for start in range(0, len(places), columns)]
    return [
        PanelRow(caption if line is lines[0] else "", [panels[at] for at in line], [labels[at] for at in line])
        for line in lines
    ]


def _even(frames: np.ndarray) -> np.ndarray:
    """Frames with a white line more where a side is odd, which 4:2:0 colour cannot have."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
