"""Clips of the same content, for companions."""

import numpy as np


class ContentGroups:
    """Finds clips of the same content, without a Python object per clip.

    Args:
        contents: int (N,), equal for clips of the same content and negative where it is not known.
    """

    def __init__(self, contents: np.ndarray):
        self.contents = np.asarray(contents, dtype=np.int32)
        self._order = np.argsort(self.contents, kind="stable").astype(np.int32)  # group by group
        ends = np.arange(self.contents.max(initial=-1) + 2)
        self._bounds = np.searchsorted(self.contents[self._order], ends).astype(np.int32)

    def other(self, index: int, rng: np.random.Generator) -> int:
        """Another clip of the same content, drawn by `rng`; the clip itself where there is none."""
        content = self.contents[index]
        if content < 0:
            return index
        members = self._order[self._bounds[content] : self._bounds[content + 1]]
        if len(members) == 1:
            return index
        place = int(np.searchsorted(members, index))  # members ascend
        return int(members[(place + rng.integers(1, len(members))) % len(members)])
