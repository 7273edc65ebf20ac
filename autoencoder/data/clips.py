"""The interface of all data sets of clips, and the conversion of clips to float."""

from typing import Protocol

import numpy as np
import torch
from einops import rearrange

from autoencoder.data.frame_index import UnreadableVideo

COMPANION_DRAWS = 4


class ClipDataset(Protocol):
    """Videos to take clips from.

    Attributes:
        class_names: name of every label, in order; empty where nothing is labelled.
        flip_invariant: whether a clip may be mirrored without changing its label.
    """

    class_names: tuple[str, ...]
    flip_invariant: bool

    def __len__(self) -> int:
        """Number of videos."""

    def label(self, index: int) -> int:
        """Class id of a video, -1 where it has none."""

    def source(self, index: int) -> str:
        """Name of the video for messages, such as its path."""

    def clip(self, index: int, rng: np.random.Generator | None) -> torch.Tensor:
        """A clip of the video.

        Args:
            index: which video.
            rng: draws the start and, where crops are random, the crop; None takes the middle of both.

        Returns:
            uint8 (T, H, W, 3).

        Raises:
            UnreadableVideo: naming the file and the reason.
        """

    def companion(self, index: int, rng: np.random.Generator, same_clip: bool = False) -> torch.Tensor:
        """A clip of the same content as those of the video, of the same split.

        Args:
            index: which video.
            rng: draws which clip; start and crop are drawn, too, without regard to those of `clip`.
            same_clip: take another moment of the video itself, instead of another video of the same content. Where no
                other video has the content, this is taken anyway; where there is no other moment, the clip itself.

        Returns:
            uint8 (T, H, W, 3).

        Raises:
            UnreadableVideo: naming the file, which may be another than that of the video, and the reason.
        """


def readable_companion(
    clips: ClipDataset, index: int, rng: np.random.Generator, same_clip: bool = False
) -> torch.Tensor:
    """A companion that can be read: of the content if a few draws find one, else of the video itself.

    A file that cannot be read is reported when it is its own turn.

    Args:
        clips, index, rng, same_clip: as for `ClipDataset.companion`.

    Returns:
        uint8 (T, H, W, 3).

    Raises:
        UnreadableVideo: if not even another moment of the video itself can be read.
    """
    for _ in range(0 if same_clip else COMPANION_DRAWS):
        try:
            return clips.companion(index, rng)
        except UnreadableVideo:
            continue
    return clips.companion(index, rng, same_clip=True)


def to_video(frames: torch.Tensor) -> torch.Tensor:
    """uint8 (B, T, H, W, 3) to float (B, 3, T, H, W) in [-1, 1]."""
    return rearrange(frames, "b t h w c -> b c t h w").float() / 127.5 - 1.0
