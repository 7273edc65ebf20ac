"""Generative replay (arXiv 1705.08690): a model's own samples of the classes that it knows, beside clips."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from autoencoder.common.launchers import is_first_process
from autoencoder.common.processes import from_all
from autoencoder.latents import VidTwinLatents
from generator.cache_reader import INDEX, LatentCache
from generator.latent_cache import write_index, write_shard

BATCH_SIZE = 16


class Sampler(Protocol):
    """Latents of labels (B,), with a seed for each (B,)."""

    def __call__(self, labels: Sequence[int], seeds: Sequence[int]) -> VidTwinLatents: ...


def replay_cache(
    folder: Path, sample: Sampler, class_names: Sequence[str], count: int, seed: int, identity: dict[str, Any]
) -> LatentCache:
    """Sample the known classes in turn, and keep that as a latent cache; one that is there already is opened.

    With several processes all must call this; the first one samples.

    Args:
        folder: the cache's folder.
        sample: makes the samples.
        class_names: name of every label of the model.
        count: samples.
        seed: of the first sample; the others count up from it.
        identity: what else the samples depend on.

    Raises:
        UserError: if there are other samples in the folder.
    """
    identity = identity | {"count": count, "seed": seed}
    if not (folder / INDEX).is_file() and is_first_process():
        labels = [number % len(class_names) for number in range(count)]
        parts = []
        for first in range(0, count, BATCH_SIZE):
            some = labels[first : first + BATCH_SIZE]
            parts.append(sample(some, range(seed + first, seed + first + len(some))))
        latents = VidTwinLatents.cat(parts)
        tensors = {"structure": latents.structure, "dynamics": latents.dynamics, "labels": torch.tensor(labels)}
        tensors["sources"] = torch.tensor([[number, 0, 0] for number in range(count)])
        write_shard(folder, 0, tensors, identity)
        write_index(folder, 1, identity, class_names, {})
    from_all(None)  # the others wait for the index
    return LatentCache(folder, settings=identity)


class JoinedCaches:
    """Two latent caches as one, for whom a `LatentCache` is: the clips of the second follow those of the first.

    Attributes:
        folder, statistics, identity: those of the first.
        class_names: those of the first, then others of the second.
        labels: long (N,), class ids within them.
    """

    def __init__(self, first: LatentCache, second: LatentCache):
        self.parts = first, second
        self.folder, self.statistics, self.identity = first.folder, first.statistics, first.identity
        self.class_names = tuple(dict.fromkeys(first.class_names + second.class_names))
        ids = torch.tensor([self.class_names.index(name) for name in second.class_names])
        self.labels = torch.cat([first.labels, ids[second.labels]])

    def __len__(self) -> int:
        return len(self.labels)

    def latents(self, indices: Sequence[int]) -> VidTwinLatents:
        """Read clips, as `LatentCache.latents`."""
        first, second = self.parts
        one = [first.latents([i]) if i < len(first) else second.latents([i - len(first)]) for i in indices]
        return VidTwinLatents.cat(one)
