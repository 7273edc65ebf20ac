"""Measuring how fast batches of stage two are made, and how much of that time is the training process's own."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from autoencoder.data.stream import PositionSampler
from generator import VidTwinDiT
from generator.batches import NoisySamples, on_device, split
from generator.config import ObjectiveConfig
from generator.latent_cache import LatentCache


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """Batches of one cache, made by a number of workers.

    Attributes:
        workers: processes that make them ahead; 0 is the training process itself.
        samples_per_second: that arrive if they are only received.
        own_seconds: processor time of the training process for one batch.
    """

    workers: int
    samples_per_second: float
    own_seconds: float

    def __str__(self) -> str:
        return f"{self.workers:7} {self.samples_per_second:10.0f} {1000 * self.own_seconds:16.1f}"


def measure_batches(folder: Path, batch_size: int, batches: int, workers: int) -> BatchResult:
    """Make batches from a cache, with two times per sample and the patches of the preset ucf101."""
    cache = LatentCache(folder)
    model = VidTwinDiT(structure_patch_size=(2, 1, 1), hidden_size=16, num_layers=1, num_attention_heads=2)
    samples = NoisySamples(cache, ObjectiveConfig(independent_times=True), model, 0, "benchmark")
    places = split(PositionSampler(len(cache), batch_size, seed=0), [batch_size])
    stream = on_device(samples, places, torch.device("cpu"), workers)
    next(stream)  # starts the workers
    start, own = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(stream)
    seconds, own = time.perf_counter() - start, time.process_time() - own
    stream.close()
    return BatchResult(workers=workers, samples_per_second=batches * batch_size / seconds, own_seconds=own / batches)
