"""Reading the latents of a complete cache."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.latents import VidTwinLatents
from generator.cache_identity import REMEDY, VideoTable, check_identity, open_file, read_metadata

INDEX = "index.json"


def shard_path(folder: Path, number: int) -> Path:
    """Path of shard `number`."""
    return folder / f"shard-{number:05d}.safetensors"


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a complete cache.

    Raises:
        UserError: if it is damaged.
    """
    try:
        index = json.loads((folder / INDEX).read_text())
        if index.keys() >= {"identity", "counts", "class_names", "statistics", "unreadable"}:
            return index
    except (ValueError, AttributeError):
        pass
    raise UserError(f"{folder / INDEX} is damaged. {REMEDY}")


class LatentCache:
    """A complete cache. Latents are read through a memory map, so that memory does not grow with the cache.

    Args:
        folder: the cache's folder.
        autoencoder: fingerprint of the autoencoder whose latents they must be; None takes any.
        settings: `CacheConfig.settings` that it must have been made with; None takes any.

    Attributes:
        class_names: name of every label, in order.
        labels: long (N,), class ids.
        statistics: `structure_mean`, `structure_std`, `dynamics_mean`, `dynamics_std`: lists of one number per channel.
        identity: what the cache was made from, except its videos: the settings, the `autoencoder`, `shard_size`.
        unreadable: reason by name of every video that could not be read.

    Raises:
        MissingFileError: if the cache is not complete.
        UserError: if it holds the latents of another autoencoder or other settings, a shard does not fit the index, or
            a file is damaged.
    """

    def __init__(
        self, folder: str | Path, autoencoder: str | None = None, settings: dict[str, Any] | None = None
    ) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise MissingFileError(
                f"{self.folder} holds no complete latent cache: {INDEX} is missing; `python -m generator.cache_latents "
                f"--output-dir {self.folder}` makes or continues it"
            )
        index = read_index(self.folder)
        self.class_names: tuple[str, ...] = tuple(index["class_names"])
        self.statistics: dict[str, list[float]] = index["statistics"]
        self.identity: dict[str, Any] = index["identity"]
        self.unreadable: dict[str, str] = index["unreadable"]
        wanted = (settings or {}) | ({} if autoencoder is None else {"autoencoder": autoencoder})
        check_identity(self.folder, self.identity, wanted)
        shards = [self._open(number, count) for number, count in enumerate(index["counts"])]
        # Views into the memory maps: what is not read takes no memory.
        self._shards = [VidTwinLatents(shard.get_tensor("structure"), shard.get_tensor("dynamics")) for shard in shards]
        self._ends = np.cumsum(index["counts"])
        self.labels = self._read_labels(shards)

    def _open(self, number: int, count: int) -> safe_open:
        path = shard_path(self.folder, number)
        if not path.is_file():
            raise MissingFileError(f"{path}, which {INDEX} lists, is missing; remove {INDEX} to have it made again")
        shard = open_file(path, "pt")
        check_identity(path, read_metadata(path, shard)["identity"], self.identity)
        if (found := shard.get_slice("labels").get_shape()[0]) != count:
            raise UserError(f"{path} holds {found} clips, {INDEX} lists {count}")
        return shard

    def _read_labels(self, shards: Sequence[safe_open]) -> torch.Tensor:
        """Class ids, from the list of videos if there is one: a class that was added may have changed the ids."""
        labels = VideoTable.read_labels(self.folder)
        if labels is None:
            return torch.cat([shard.get_tensor("labels") for shard in shards])
        return labels[torch.cat([shard.get_tensor("sources")[:, 0] for shard in shards])]

    def __reduce__(self):
        """Pickle the folder only, so that worker processes open the memory maps themselves."""
        return LatentCache, (self.folder,)

    def __len__(self) -> int:
        return len(self.labels)

    def latents(self, indices: Sequence[int]) -> VidTwinLatents:
        """Read clips.

        Args:
            indices: at least one, each in [0, N).

        Returns:
            Posterior means: structure (B, d_S, n_q, h_S, w_S) and dynamics (B, d_D, F, w_D + h_D).

        Raises:
            IndexError: for an index out of range.
        """
        clips = np.asarray(indices, dtype=np.int64)  # (B,)
        if (outside := clips[(clips < 0) | (clips >= len(self))]).size:
            raise IndexError(f"clip {outside[0]} of a cache of {len(self)}")
        numbers = np.searchsorted(self._ends, clips, side="right")
        rows = clips - np.where(numbers, self._ends[numbers - 1], 0)
        shards = [(self._shards[number], row) for number, row in zip(numbers.tolist(), rows.tolist(), strict=True)]
        return VidTwinLatents(
            torch.stack([shard.structure[row] for shard, row in shards]),
            torch.stack([shard.dynamics[row] for shard, row in shards]),
        )
