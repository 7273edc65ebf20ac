"""The clips of `python -m benchmarks.separation`: which are exchanged, and what probes and judges try to name."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from autoencoder.data import DataConfig, Shapes
from autoencoder.data.shapes import MOTIONS, SHAPES, Content, Motion
from autoencoder.data.sprite_sources import ATTRIBUTES, CLASS_NAMES, NUM_VALUES
from autoencoder.metrics.exchanged_clips import Exchange, check_enough, exchanged_shapes, random_order
from autoencoder.metrics.msd import Factor
from autoencoder.metrics.oracle import oracle
from autoencoder.metrics.separation import both_ways
from autoencoder.metrics.sprites_judge import SpritesJudge
from benchmarks.separation import SeparationConfig

if TYPE_CHECKING:
    from autoencoder.data.sprites import Sprites

# Shares of the frame that divide it into 3 x 3 fields for the mean centroid. It is mostly near the middle, where these
# bounds leave every field with 7 to 17 % of the clips.
PLACE_BOUNDS = (0.46, 0.54)
Labels = dict[str, torch.Tensor]  # int64 (N,) by name


class ShapesClips:
    """Moving shapes.

    Args:
        config: the command's.
        num_frames, size: of a clip.
    """

    # Of the two-factor score: those that the oracle names.
    factors = {"shape": Factor("static", len(SHAPES)), "axis": Factor("dynamic", len(MOTIONS))}

    judge = staticmethod(oracle)

    def __init__(self, config: SeparationConfig, num_frames: int, size: int):
        self.parts = {split: Shapes(num_frames, size, split) for split in ("train", "val")}
        self.size, self.config = size, config

    def exchange(self) -> Exchange:
        """As `exchanged_shapes`, of the held-out clips."""
        return exchanged_shapes(self.parts["val"], self.config.count, self.config.seed)

    def labelled(self, split: str, count: int) -> tuple[torch.Tensor, Labels]:
        """The first clips of a part, uint8 (N, T, H, W, 3), and all that probes try to read."""
        data = self.parts[split]
        indices = range(min(count, len(data)))
        rows = [_shape_labels(data.content(index), data.motion(index), self.size) for index in indices]
        return torch.stack([data.clip(index) for index in indices]), _columns(rows)

    def named(self, clips: torch.Tensor) -> Labels:
        """The labels that the oracle gives clips, uint8 (N, T, H, W, 3), by factor; -1 where it sees none."""
        verdicts = [self.judge(clip) for clip in clips]
        return {
            "shape": torch.tensor([_place(verdict.shape, tuple(SHAPES)) for verdict in verdicts]),
            "axis": torch.tensor([_place(verdict.motion, MOTIONS) for verdict in verdicts]),
        }


class SpritesClips:
    """Sprites: the content is the character, the motion the action.

    Args:
        config: the command's.
        num_frames, size: of a clip.
        judge: names what clips show; None leaves out what needs it.
    """

    factors = {"action": Factor("dynamic", len(CLASS_NAMES))} | dict.fromkeys(ATTRIBUTES, Factor("static", NUM_VALUES))

    def __init__(self, config: SeparationConfig, num_frames: int, size: int, judge: SpritesJudge | None = None):
        self.judge = judge
        data = DataConfig(dataset="sprites", data_root=config.data_root)
        self.parts: dict[str, Sprites] = {split: data.build(split, num_frames, size) for split in ("train", "val")}
        self.config = config

    def exchange(self) -> Exchange:
        """Pairs of other characters in other actions, where each character is also there in the other's action.

        Raises:
            UserError: if there are fewer such pairs than wanted.
        """
        data = self.parts["val"]
        order = random_order(self.config.seed, len(data))
        found = {(data.character(index), data.label(index)): index for index in order}
        pairs, free = [], list(order)
        while free and len(pairs) < self.config.count:
            first = free.pop(0)
            fitting = (other for other in free if self._is_pair(data, found, first, other))
            if (partner := next(fitting, None)) is not None:
                free.remove(partner)
                pairs.append((first, partner))
        check_enough(len(pairs), self.config.count)
        clips, partners = both_ways(pairs)
        rendered = [found[data.character(a), data.label(b)] for a, b in zip(clips, partners, strict=True)]
        return Exchange(
            clips=torch.stack([data.clip(index, None) for index in clips]),
            dynamics_of=[clips.index(index) for index in partners],
            rendered=torch.stack([data.clip(index, None) for index in rendered]),
            truths=None,
        )

    @staticmethod
    def _is_pair(data: "Sprites", found: dict[tuple[int, int], int], first: int, other: int) -> bool:
        characters, actions = ([of(first), of(other)] for of in (data.character, data.label))
        differ = characters[0] != characters[1] and actions[0] != actions[1]
        return differ and all(pair in found for pair in zip(characters, reversed(actions), strict=True))

    def labelled(self, split: str, count: int) -> tuple[torch.Tensor, Labels]:
        """Random clips of a part, uint8 (N, T, H, W, 3), and all that probes try to read."""
        data = self.parts[split]
        indices = random_order(self.config.seed, len(data))[:count]
        rows = [
            dict(zip(ATTRIBUTES, data.attributes(index), strict=True)) | {"action": data.label(index)}
            for index in indices
        ]
        return torch.stack([data.clip(index, None) for index in indices]), _columns(rows)

    def named(self, clips: torch.Tensor) -> Labels:
        """The labels that the judge gives clips, uint8 (N, T, H, W, 3), by factor."""
        read = self.judge.read(clips)
        attributes = read.attributes.argmax(dim=2).unbind(dim=1)
        return {"action": read.action.argmax(dim=1)} | dict(zip(ATTRIBUTES, attributes, strict=True))


def _shape_labels(content: Content, motion: Motion, size: int) -> dict[str, int]:
    column, row = np.digitize(motion.path.mean(axis=0) / size, PLACE_BOUNDS).tolist()
    return {
        "shape": list(SHAPES).index(content.shape),
        "background": _octant(content.background),
        "colour": _octant(content.colour),
        "axis": MOTIONS.index(motion.axis),
        "place": 3 * row + column,
    }


def _place(name: str, names: Sequence[str]) -> int:
    return names.index(name) if name in names else -1


def _octant(colour: np.ndarray) -> int:
    """In which of eight parts of the RGB cube a colour lies: each channel below or above one half."""
    return int((colour >= 0.5) @ [4, 2, 1])


def _columns(rows: Sequence[dict[str, int]]) -> Labels:
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
