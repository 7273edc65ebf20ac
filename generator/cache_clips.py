"""The data set of clips that a latent cache encodes."""

from itertools import chain

import numpy as np
import torch
from torch.utils.data import Dataset

from autoencoder.common.seeding import derive_seed
from autoencoder.data import ClipDataset, UnreadableVideo
from autoencoder.data.clips import readable_companion
from autoencoder.data.stream import collate
from generator.cache_identity import VideoTable, file_digest
from generator.config import CacheConfig


class CacheClips(Dataset):
    """The clips of chosen videos: with k clips per video, item p is clip p mod k of video numbers[p div k].

    The first clip of a video is its middle one, without a random crop; the others are drawn by the cache's seed, as are
    companions, where the config asks for them.

    Args:
        clips: the data set.
        table: list of its videos; None for a data set without files.
        numbers: numbers of the videos to encode, in the order of the cache.
        config: the cache's config.
    """

    def __init__(self, clips: ClipDataset, table: VideoTable | None, numbers: np.ndarray, config: CacheConfig):
        self.clips, self.numbers, self.config = clips, numbers, config
        self.has_files = table is not None
        self.places = np.arange(len(clips)) if table is None else table.places
        self._digest = (-1, "")  # of the video that was read last, of which the next clip may be

    def __len__(self) -> int:
        return len(self.numbers) * self.config.clips_per_video

    def __getitem__(self, item: int) -> dict:
        at, clip = divmod(item, self.config.clips_per_video)
        number = int(self.numbers[at])
        place = int(self.places[number])
        report = {"sample": None, "tried": [number], "unreadable": {}, "digests": self._digests(number, place)}
        seed = derive_seed(self.config.clip_seed, "cache", number, clip)
        sample = {"source": torch.tensor([number, clip])}
        try:
            sample["video"] = self.clips.clip(place, np.random.default_rng(seed) if clip else None)
            if self.config.companions:
                rng = np.random.default_rng(derive_seed(seed, "companion"))
                sample["companion"] = readable_companion(self.clips, place, rng)
        except UnreadableVideo as error:
            return report | {"unreadable": {number: str(error)}}
        sample["label"] = self.clips.label(place) if self.clips.class_names else 0
        return report | {"sample": sample}

    def _digests(self, number: int, place: int) -> dict[int, str]:
        if not self.has_files:
            return {}
        if self._digest[0] != number:
            self._digest = number, file_digest(self.clips.source(place))
        return dict([self._digest])


def collate_with_digests(items: list[dict]) -> dict:
    """As `autoencoder.data.stream.collate`, with the digests of the files."""
    return collate(items) | {"digests": dict(chain.from_iterable(item["digests"].items() for item in items))}
