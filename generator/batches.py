"""The batches of stage two, made ahead by worker processes: latents, noised and packed, with their targets.

Everything random about a sample is drawn from that sample's own generator, seeded by its position in the run. So the
batches are the same whatever the number of workers and processes, and wherever a run is resumed.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch.utils.data import DataLoader, Dataset

from autoencoder.common.errors import UserError
from autoencoder.common.seeding import generators
from autoencoder.common.signals import leave_signals_to_the_parent
from generator.dit import VidTwinDiT
from generator.latent_cache import LatentCache
from generator.objective import NoisyBatch, ObjectiveConfig, noisy_batch

Places = list[tuple[int, int]]  # (position, index) of samples: the first seeds the noise, the second is the clip's


class NoisySamples(Dataset):
    """Noised micro-batches of a cache, on the CPU; an item is the micro-batch of a list of places.

    Args:
        cache: the clips.
        objective: which noise levels, noise and targets to draw.
        model: its scale and token layout are used; its weights are not kept, so that workers hold no copy of them.
        seed: the run's seed.
        stream: name of the purpose; streams have different draws at the same position.

    Raises:
        UserError: if clips are to be contrasted with others and there is but one.
    """

    def __init__(self, cache: LatentCache, objective: ObjectiveConfig, model: VidTwinDiT, seed: int, stream: str):
        self.cache, self.objective, self.seed, self.stream = cache, objective, seed, stream
        self.scale, self.layout, self.null_label = model.scale, model.layout, model.config.num_classes
        self.labels = _model_labels(cache, model)[cache.labels]  # (N,)
        if objective.contrastive_weight and len(cache) < 2:
            raise UserError(
                f"contrastive_weight={objective.contrastive_weight} needs a second clip to contrast with, and "
                f"{cache.folder} holds one"
            )

    def __getitem__(self, places: Places) -> NoisyBatch:
        positions, indices = zip(*places, strict=True)
        return noisy_batch(
            self._tokens(indices),  # (B, N, D)
            self.labels[list(indices)],  # (B,)
            self.objective,
            generators(self.seed, self.stream, positions),
            self.layout.num_structure_tokens,
            self.null_label,
            self._tokens(self._others(places)) if self.objective.contrastive_weight else None,  # (B, N, D)
            self.layout.time_rows if self.objective.frame_times else None,
        )

    def _tokens(self, indices: Sequence[int]) -> torch.Tensor:
        return self.layout.pack(self.scale.normalize(self.cache.latents(indices)))  # (B, N, D)

    def _others(self, places: Places) -> list[int]:
        """Another clip for each sample. Not of the same micro-batch, so that it does not depend on the split."""
        draws = generators(self.seed, f"{self.stream}: other", [position for position, _ in places])
        numbers = [torch.randint(len(self.cache) - 1, (), generator=draw).item() for draw in draws]
        return [number + (number >= index) for number, (_, index) in zip(numbers, places, strict=True)]


def _model_labels(cache: LatentCache, model: VidTwinDiT) -> torch.Tensor:
    """The model's label of every class of a cache, long (K,), by its name; a model may know further classes."""
    names = model.config.id2label
    if names is None:
        return torch.arange(len(cache.class_names))
    labels = {name: int(label) for label, name in names.items()}
    return torch.tensor([labels[name] for name in cache.class_names])


def split(batches: Iterable[Places], sizes: Sequence[int]) -> Iterator[Places]:
    """Split every batch into micro-batches of these sizes, in order."""
    for batch in batches:
        rest = iter(batch)
        yield from (list(islice(rest, size)) for size in sizes)


def on_device(
    samples: NoisySamples, places: Iterable[Places], device: torch.device, num_workers: int = 0
) -> Iterator[NoisyBatch]:
    """The micro-batches at `places`, in order, on a device.

    On CUDA they are copied from pinned memory while the device works, so that the host does not wait.

    Args:
        samples: makes the micro-batches.
        places: places of each micro-batch.
        device: the target.
        num_workers: processes that make them ahead; 0 makes each in this process when its turn comes.
    """
    loader = DataLoader(
        samples,
        batch_size=None,  # an item is a whole micro-batch
        sampler=places,
        num_workers=num_workers,
        worker_init_fn=leave_signals_to_the_parent,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it would draw the workers' seeds, which nothing uses, from the global one
    )
    for batch in loader:
        yield batch.to(device)
