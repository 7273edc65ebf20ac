"""Characters drawn from rectangles, in the manner of the Sprites data set: four colours, nine actions."""

from pathlib import Path

import numpy as np
import torch

from autoencoder.data.sprites import characters_of

COLOURS = np.array([[230, 30, 30], [30, 230, 30], [40, 40, 240], [230, 230, 30], [30, 220, 230], [220, 40, 220]])
SIZE, NUM_FRAMES = 32, 8
BANDS = {"skin": (8, 12), "trousers": (20, 27), "top": (12, 20), "hair": (4, 8)}  # rows, in the order of attributes


class MadeUpSprites:
    """All nine actions of some characters, a `ClipDataset` with the further methods of `Sprites`.

    Args:
        num_characters: how many.
        first: number of the first one; characters of other numbers are others.
        size: height and width, a multiple of 32.
    """

    class_names = tuple(
        f"{kind}_{side}" for kind in ("walk", "spellcard", "slash") for side in ("front", "left", "right")
    )
    flip_invariant = False

    def __init__(self, num_characters: int, first: int = 0, size: int = SIZE):
        # Of all 1,296 characters, in an order that mixes the values of every attribute.
        order = np.random.default_rng(0).permutation(6**4)[first : first + num_characters]
        self.characters, self.size = order.tolist(), size

    def __len__(self) -> int:
        return 9 * len(self.characters)

    def label(self, index: int) -> int:
        return index % 9

    def character(self, index: int) -> int:
        return self.characters[index // 9]

    def attributes(self, index: int) -> tuple[int, int, int, int]:
        return tuple(int(value) for value in np.unravel_index(self.character(index), (6, 6, 6, 6)))

    def source(self, index: int) -> str:
        return f"made up [{index}]"

    def clip(self, index: int, rng: np.random.Generator | None) -> torch.Tensor:
        return self.render(self.attributes(index), self.label(index))

    def render(self, attributes: tuple[int, int, int, int], action: int) -> torch.Tensor:
        """uint8 (8, size, size, 3): a body of four bands, eyes that tell the side, a hand that moves."""
        kind, side = divmod(action, 3)
        frames = np.zeros((NUM_FRAMES, SIZE, SIZE, 3), np.uint8)
        for value, (top, bottom) in zip(attributes, BANDS.values(), strict=True):
            frames[:, top:bottom, 10:22] = COLOURS[value]
        frames[:, 8:12, 10 + 4 * side : 14 + 4 * side] = 0
        for time in range(NUM_FRAMES):
            row, column = ((27, 8 + 2 * time), (24 - 2 * time, 24), (14, 22 + time))[kind]
            frames[time, row : row + 4, column : column + 4] = 255
        scale = self.size // SIZE
        return torch.from_numpy(frames.repeat(scale, axis=1).repeat(scale, axis=2))


def write_file(path: Path, num_train: int, num_held_out: int) -> Path:
    """A file like sprites.npz with all actions of so many characters of either part."""
    made_up = MadeUpSprites(0, size=64)
    characters = [*characters_of("train")[:num_train], *characters_of("val")[:num_held_out]]
    attributes = np.stack(np.unravel_index(np.repeat(characters, 9), (6, 6, 6, 6)), axis=1)
    actions = np.tile(np.arange(9), len(characters))
    video = np.stack([made_up.render(values, action) for values, action in zip(attributes, actions, strict=True)])
    np.savez_compressed(path, video=video, label=actions, attr=attributes)
    return path
