"""The work of `python -m benchmarks.cache`."""

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autoencoder.common.cost import format_bytes
from benchmarks.cache import CacheBenchmarkConfig
from benchmarks.report import environment, write_json
from benchmarks.work.batches import measure_batches
from generator.latent_cache import LatentCache, write_index, write_shard

HEADER = f"{'clips':>9} {'shards':>7} {'on disk':>11} {'open':>11} {'reading':>11} {'samples/s':>10}"
BATCHES_HEADER = f"\n{'workers':>7} {'samples/s':>10} {'own ms a batch':>16}"
STATUS = Path("/proc/self/status")
STRUCTURE_SHAPE, DYNAMICS_SHAPE = (4, 16, 7, 7), (8, 16, 14)  # of the paper's headline setting
IDENTITY = {"dataset": "noise"}


@dataclass(frozen=True, kw_only=True)
class CacheResult:
    """Reading one cache in a fresh process.

    Attributes:
        clips, shards: numbers of both in the cache.
        disk_bytes: bytes of its files.
        open_anonymous_bytes: anonymous memory (RssAnon) that opening the cache takes, labels of all clips included;
            None on systems without /proc.
        read_anonymous_bytes: that opening it and reading all batches takes.
        samples_per_second: rate of random clips; files that were just written may still be in the system's cache.
    """

    clips: int
    shards: int
    disk_bytes: int
    open_anonymous_bytes: int | None
    read_anonymous_bytes: int | None
    samples_per_second: float

    def __str__(self) -> str:
        memory = (self.open_anonymous_bytes, self.read_anonymous_bytes)
        opened, read = ("not measured" if size is None else format_bytes(size) for size in memory)
        return (
            f"{self.clips:9} {self.shards:7} {format_bytes(self.disk_bytes):>11} {opened:>11} {read:>11} "
            f"{self.samples_per_second:10.0f}"
        )


def anonymous_bytes() -> int | None:
    """Memory of this process that is not mapped from a file; None on systems without /proc."""
    lines = STATUS.read_text().splitlines() if STATUS.is_file() else []
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")]
    return sizes[0] if sizes else None


def write_cache(folder: Path, clips: int, shard_size: int) -> None:
    """Write a complete cache of clips of noise, with one class."""
    generator = torch.Generator().manual_seed(0)
    firsts = range(0, clips, shard_size)
    for number, first in enumerate(firsts):
        count = min(shard_size, clips - first)
        tensors = {
            "structure": torch.randn(count, *STRUCTURE_SHAPE, generator=generator),  # (n, d_S, n_q, h_S, w_S)
            "dynamics": torch.randn(count, *DYNAMICS_SHAPE, generator=generator),  # (n, d_D, F, w_D + h_D)
            "labels": torch.zeros(count, dtype=torch.long),
            "sources": torch.zeros(count, 3, dtype=torch.long),
        }
        write_shard(folder, number, tensors, IDENTITY)
    write_index(folder, len(firsts), IDENTITY, ["noise"], unreadable={})


def read_cache(folder: Path, batch_size: int, batches: int) -> CacheResult:
    """Read batches of random clips of a cache."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    before = anonymous_bytes()
    cache = LatentCache(folder)
    opened = anonymous_bytes()
    cache.latents(rng.integers(len(cache), size=batch_size))
    start = time.perf_counter()
    for _ in range(batches):
        cache.latents(rng.integers(len(cache), size=batch_size))
    seconds = time.perf_counter() - start
    after = anonymous_bytes()
    return CacheResult(
        clips=len(cache),
        shards=len(list(folder.glob("*.safetensors"))),
        disk_bytes=sum(path.stat().st_size for path in folder.iterdir()),
        open_anonymous_bytes=None if before is None else opened - before,
        read_anonymous_bytes=None if before is None else after - before,
        samples_per_second=batches * batch_size / seconds,
    )


def measure(folder: Path, clips: int, config: CacheBenchmarkConfig) -> CacheResult:
    """Write a cache, and read it in a fresh process."""
    write_cache(folder, clips, config.shard_size)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(read_cache, folder, config.batch_size, config.batches).result()


def execute(config: CacheBenchmarkConfig) -> None:
    """Time small and large caches, print and write."""
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory(dir=config.folder) as temporary:
        rows = []
        for name, clips in (("small", config.clips), ("large", config.factor * config.clips)):
            rows.append(measure(Path(temporary) / name, clips, config))
            print(rows[-1], flush=True)
        print(BATCHES_HEADER, flush=True)
        for workers in (0, 1, 2):
            print(measure_batches(Path(temporary) / "small", config.batch_size, config.batches, workers), flush=True)
    write_json(config.output, "cache", environment(torch.device("cpu")), rows)
    print(
        "open, reading: anonymous memory taken by opening the cache, and by that and reading random clips of it; "
        f"written to {config.output}"
    )
