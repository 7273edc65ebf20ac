"""The order of clips in a run, as a function of its seed, and the handling of files that cannot be read."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, default_collate

from autoencoder.common.errors import UserError
from autoencoder.common.seeding import derive_seed
from autoencoder.data.clips import ClipDataset
from autoencoder.data.video_io import UnreadableVideo
from autoencoder.data.views import ViewChange

MAX_STAND_INS = 20

Alteration = Callable[[torch.Tensor], torch.Tensor]  # of uint8 (T, H, W, 3)


class PositionSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of (position, index), from any step on.

    Position p counts the samples of the run. Its item is perm_e[p mod n] of a data set of n, where e = p div n and
    perm_e is a permutation drawn for that epoch. So an epoch repeats nothing, and a run that is resumed at step s gets
    the same batches as an unbroken run from there on.

    Args:
        num_items: size n of the data set.
        batch_size: over all processes.
        seed: the run's seed.
        start_step: the first step.
        rank, world_size: this process takes the rank-th of `world_size` equal parts of every batch.

    Raises:
        UserError: if the data set is empty or the processes do not divide the batch.
    """

    def __init__(
        self, num_items: int, batch_size: int, seed: int, start_step: int = 0, rank: int = 0, world_size: int = 1
    ):
        if num_items < 1 or batch_size % world_size:
            raise UserError(f"cannot split batches of {batch_size} from {num_items} items over {world_size} processes")
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self.start_step, self.rank, self.share = start_step, rank, batch_size // world_size
        self._epoch, self._order = -1, None

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.start_step
        while True:
            first = step * self.batch_size + self.rank * self.share
            yield [(position, self._index(position)) for position in range(first, first + self.share)]
            step += 1

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, self.num_items)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng(derive_seed(self.seed, "order", epoch)).permutation(self.num_items)
        return int(self._order[place])


class TrainingClips(Dataset):
    """Clips for the batches of a `PositionSampler`: start, crop and flip are functions of the seed and the position.

    A file that cannot be read is replaced by another, chosen by the seed and the file's index.

    Args:
        clips: the data set.
        seed: the run's seed.
        flip: mirror half of the clips.
        augmentation: draws a change of every clip, between none and its full one; None changes none.

    Raises:
        UserError: if `flip` is set and the data set's labels do not allow it.
        UnreadableVideo: from an item, if `MAX_STAND_INS` replacements cannot be read either.
    """

    def __init__(self, clips: ClipDataset, seed: int, flip: bool = False, augmentation: ViewChange | None = None):
        if flip and not clips.flip_invariant:
            raise UserError(f"flip=True, but {type(clips).__name__} does not declare its labels flip-invariant")
        self.clips, self.seed, self.flip, self.augmentation = clips, seed, flip, augmentation

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, place: tuple[int, int]) -> dict:
        position, index = place
        rng = np.random.default_rng(derive_seed(self.seed, "clip", position))
        tried, unreadable = [], {}
        for attempt in range(1 + MAX_STAND_INS):
            chosen = index if attempt == 0 else derive_seed(self.seed, "stand-in", index, attempt) % len(self.clips)
            tried.append(chosen)
            try:
                sample = self._sample(chosen, position, rng)
            except UnreadableVideo as error:
                unreadable[chosen] = str(error)
                continue
            return {"sample": sample, "tried": tried, "unreadable": unreadable}
        raise UnreadableVideo(
            f"{1 + MAX_STAND_INS} files in a row could not be read, the last one: {unreadable[tried[-1]]}"
        )

    def further(self, index: int, video: torch.Tensor, position: int, alter: Alteration) -> dict[str, Any]:
        """What a sample holds beside its video, label and position; here, nothing.

        Args:
            index: which of the videos the sample is of.
            video: uint8 (T, H, W, 3).
            position: of the sample in the run.
            alter: mirrors and changes a clip as the video was.
        """
        return {}

    def _sample(self, index: int, position: int, rng: np.random.Generator) -> dict[str, Any]:
        video = self.clips.clip(index, rng)
        alter = self._alteration(position, is_mirrored=self.flip and rng.random() < 0.5)
        video = alter(video)
        sample = {"video": video, "label": self.clips.label(index), "position": position}
        return sample | self.further(index, video, position, alter)

    def _alteration(self, position: int, is_mirrored: bool) -> Alteration:
        def alter(video: torch.Tensor) -> torch.Tensor:
            video = video.flip(2) if is_mirrored else video
            if self.augmentation is None:
                return video
            rng = np.random.default_rng(derive_seed(self.seed, "augmentation", position))
            return self.augmentation(video, rng, strength=rng.uniform())

        return alter


class HeldOutClips(Dataset):
    """The middle clip of chosen files, centre crop; a file that cannot be read has no sample."""

    def __init__(self, clips: ClipDataset, indices: list[int]):
        self.clips, self.indices = clips, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> dict:
        index = self.indices[place]
        try:
            sample = {"video": self.clips.clip(index, None), "label": self.clips.label(index), "position": place}
        except UnreadableVideo as error:
            return {"sample": None, "tried": [index], "unreadable": {index: str(error)}}
        return {"sample": sample, "tried": [index], "unreadable": {}}


def collate(items: list[dict]) -> dict:
    """Join items: batch the samples (None if there are none), and join `tried` and `unreadable`."""
    samples = [item["sample"] for item in items if item["sample"] is not None]
    unreadable = {index: reason for item in items for index, reason in item["unreadable"].items()}
    tried = [index for item in items for index in item["tried"]]
    return {"sample": default_collate(samples) if samples else None, "tried": tried, "unreadable": unreadable}


class FileReport:
    """Counts the files that were tried and those that could not be read, over workers and processes.

    Args:
        num_files: size of the data set.
        max_bad_share: more bad files than this share of the files tried so far stop the run.
        min_tried: the share is checked only after this many files were tried, or all of them.
    """

    def __init__(self, num_files: int, max_bad_share: float, min_tried: int = 20):
        self.max_bad_share, self.min_tried = max_bad_share, min(min_tried, num_files)
        self.tried = torch.zeros(num_files, dtype=torch.bool)
        self.reasons: dict[int, str] = {}

    def update(self, batch: dict) -> list[str]:
        """Count the files of a batch of `collate`.

        Returns:
            Reasons of the files that are bad for the first time.
        """
        self.tried[batch["tried"]] = True
        new = {index: reason for index, reason in batch["unreadable"].items() if index not in self.reasons}
        self.reasons |= new
        return list(new.values())

    def synchronize(self) -> list[str]:
        """Join the counts of all processes; returns the reasons that were new to this one."""
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return []
        world = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(world, (self.tried, self.reasons))
        new = {index: reason for _, reasons in world for index, reason in reasons.items() if index not in self.reasons}
        self.tried = torch.stack([tried for tried, _ in world]).any(0)
        self.reasons |= new
        return list(new.values())

    def check(self) -> None:
        """Stop the run where too many files are bad.

        Raises:
            UnreadableVideo: naming the share, the limit and some of the files.
        """
        tried, bad = int(self.tried.sum()), len(self.reasons)
        if tried >= self.min_tried and bad > self.max_bad_share * tried:
            examples = "; ".join(list(self.reasons.values())[:5])
            raise UnreadableVideo(
                f"{bad} of the {tried} files tried so far cannot be read, more than "
                f"max_bad_share={self.max_bad_share}: {examples}"
            )
