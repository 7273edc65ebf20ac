"""Small files of sprites with known content, for the tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_file(path: Path, characters: Sequence[int], actions: Sequence[int] = range(9), **changes) -> Path:
    """A file with all the actions of some characters; frame t of a clip has the colour (character, action, t)."""
    pairs = [(character, action) for character in characters for action in actions]
    video = np.zeros((len(pairs), 8, 64, 64, 3), dtype=np.uint8)
    for clip, (character, action) in zip(video, pairs, strict=True):
        clip[..., 0], clip[..., 1] = character % 251, action
        clip[..., 2] = np.arange(8)[:, None, None]
    attributes = np.stack(np.unravel_index([character for character, _ in pairs], (6, 6, 6, 6)), axis=1)
    arrays = {"video": video, "label": np.array([action for _, action in pairs]), "attr": attributes} | changes
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
    return path
