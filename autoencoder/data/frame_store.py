"""Decoded videos kept in memory, for training sets of few short ones, which a run reads again and again."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch

from autoencoder.data.frame_index import UnreadableVideo, file_state

MIN_VIDEOS = 4  # a video is only kept where as many of its size would fit


class FrameStore:
    """The frames of the files that were read last, up to a size in memory.

    A file is known by its path, size and time of change. Every process has a store of its own.

    Args:
        max_bytes: most memory of all frames; 0 keeps none.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._videos: OrderedDict[tuple, torch.Tensor | None] = OrderedDict()

    def frames(self, path: str | Path, num_bytes: int, read: Callable[[], torch.Tensor]) -> torch.Tensor | None:
        """All frames of a file, read if they are not kept.

        Args:
            path: the file.
            num_bytes: about what its frames take.
            read: reads all of them.

        Returns:
            What `read` returned; None for a file that is too large to be kept, or damaged in some place.
        """
        if num_bytes * MIN_VIDEOS > self.max_bytes:
            return None
        key = file_state(path)
        if key in self._videos:
            self._videos.move_to_end(key)
            return self._videos[key]
        try:
            video = read()
        except UnreadableVideo:
            video = None
        self._videos[key] = video
        self.num_bytes += _size(video)
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= _size(self._videos.popitem(last=False)[1])
        return video

    def __reduce__(self):
        return FrameStore, (self.max_bytes,)  # a worker process starts with an empty one


def _size(video: torch.Tensor | None) -> int:
    return 0 if video is None else video.numel() * video.element_size()
