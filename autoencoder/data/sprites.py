"""Sprites: animated characters whose content and action are both labelled, a benchmark of sequential disentanglement.

Li and Mandt, Disentangled Sequential Autoencoder (arXiv 1803.02991): 1,296 characters, told by skin, trousers, top and
hair, in 9 actions.
"""

from pathlib import Path

import numpy as np
import torch

from autoencoder.common.errors import UserError
from autoencoder.data.groups import ContentGroups
from autoencoder.data.sprite_sources import (
    ATTRIBUTES,
    CLASS_NAMES,
    NUM_CHARACTERS,
    NUM_FRAMES,
    NUM_VALUES,
    SIDE,
    open_source,
)
from autoencoder.data.video_io import resize_and_crop

SPLITS = ("train", "val")
SPLIT_SEED, NUM_TRAINING_CHARACTERS = 423, 1000  # of the benchmark


class Sprites:
    """Clips of the Sprites benchmark, a `ClipDataset`; every clip is one character in one action.

    Args:
        root: the file sprites.npz, the folder that it lies in, or the folder of sheets of YingzhenLi/Sprites. A file
            may hold some of the clips; the data set has those.
        num_frames: frames of a clip, 1 to 8. Fewer than the 8 that there are make a stretch of these.
        size: height and width of a clip; frames are 64 x 64, other sizes are resized (bilinear, antialiased).
        split: "train", the clips of 1,000 characters (9,000 clips), or "val", those of the other 296 (2,664 clips). The
            choice is the benchmark's: the first ones of numpy's permutation of all with the seed 423.

    Raises:
        MissingFileError: if there are no data; the message says what to put where.
        UserError: if an argument, the file or a sheet does not fit, or no clip falls into the split.
    """

    class_names = CLASS_NAMES
    flip_invariant = False

    def __init__(self, root: str | Path, num_frames: int = NUM_FRAMES, size: int = SIDE, split: str = "train"):
        if not 1 <= num_frames <= NUM_FRAMES:
            raise UserError(f"sprites have {NUM_FRAMES} frames: num_frames must be 1 to {NUM_FRAMES}, got {num_frames}")
        if size < 1:
            raise UserError(f"size={size}: must be at least one pixel")
        if split not in SPLITS:
            raise UserError(f"split={split!r} is none of {', '.join(SPLITS)}")
        self.num_frames, self.size = num_frames, size
        self._source = open_source(Path(root))
        is_chosen = np.isin(self._source.characters, characters_of(split))
        self._places = np.flatnonzero(is_chosen).astype(np.int32)  # in the source
        if not len(self._places):
            raise UserError(f"{root}: none of its {len(is_chosen)} clips is of a character of split={split!r}")
        self._groups = ContentGroups(self._source.characters[self._places])

    def __len__(self) -> int:
        return len(self._places)

    def label(self, index: int) -> int:
        """Action of a clip, an index into `CLASS_NAMES`."""
        return int(self._source.actions[self._places[index]])

    def character(self, index: int) -> int:
        """Number of a clip's character, 0 to 1,295; clips of the same character show the same content."""
        return int(self._source.characters[self._places[index]])

    def attributes(self, index: int) -> tuple[int, int, int, int]:
        """Values of the `ATTRIBUTES` skin, trousers, top and hair, each 0 to 5."""
        values = np.unravel_index(self.character(index), [NUM_VALUES] * len(ATTRIBUTES))
        return tuple(int(value) for value in values)

    def source(self, index: int) -> str:
        """Name of a clip for messages."""
        return f"sprites[character {self.character(index)}, {CLASS_NAMES[self.label(index)]}]"

    def clip(self, index: int, rng: np.random.Generator | None = None) -> torch.Tensor:
        """Clip `index`; where `num_frames` is less than 8, `rng` draws its start, and None takes the middle.

        Returns:
            uint8 (T, size, size, 3).
        """
        return self._shown(self._frames(index), rng)

    def companion(self, index: int, rng: np.random.Generator, same_clip: bool = False) -> torch.Tensor:
        """The same character in another action.

        Args:
            index: which clip.
            rng: draws the action.
            same_clip: take the clip itself, begun 1 to 7 frames later and going on with its first frames, for the
                actions repeat. So it is, too, where a file holds no other action of the character.

        Returns:
            uint8 (T, size, size, 3).
        """
        other = index if same_clip else self._groups.other(index, rng)
        if other != index:
            return self.clip(other, rng)
        later = int(rng.integers(1, NUM_FRAMES))
        return self._shown(self._frames(index).roll(-later, dims=0), rng)

    def _frames(self, index: int) -> torch.Tensor:
        """The whole clip as it is kept, uint8 (8, 64, 64, 3)."""
        return torch.from_numpy(self._source.frames(self._places[index]))

    def _shown(self, frames: torch.Tensor, rng: np.random.Generator | None) -> torch.Tensor:
        """A stretch of the frames, in the size of the data set."""
        spare = NUM_FRAMES - self.num_frames
        start = spare // 2 if rng is None else int(rng.integers(spare + 1))
        frames = frames[start : start + self.num_frames]  # (T, 64, 64, 3)
        return frames if self.size == SIDE else resize_and_crop(frames, self.size)  # (T, size, size, 3)


def characters_of(split: str) -> np.ndarray:
    """Numbers of the characters of "train" or "val", int64 (1000,) or (296,), in the benchmark's order."""
    order = np.random.RandomState(SPLIT_SEED).permutation(NUM_CHARACTERS)
    return order[:NUM_TRAINING_CHARACTERS] if split == "train" else order[NUM_TRAINING_CHARACTERS:]
