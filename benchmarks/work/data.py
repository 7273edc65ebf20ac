"""The work of `python -m benchmarks.data`."""

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from autoencoder.common.errors import UserError
from autoencoder.common.seeding import derive_seed
from autoencoder.data.folder import VideoFolder
from autoencoder.data.video_io import ClipReader, UnreadableVideo, index_frames
from benchmarks.data import DataBenchmarkConfig
from benchmarks.report import environment, write_json

HEADER = (
    f"{'file':24} {'sampling':8} {'width':>5} {'height':>6} {'decoder':7} {'clips/s':>8} {'decord/s':>8} "
    f"{'ratio':>6} {'lowest':>6} {'wall':>6} {'frames':>6} {'index ms':>8}"
)


@dataclass(frozen=True, kw_only=True)
class LoaderResult:
    """Rates of reading clips of one file, with the loader and decord in turns.

    Both are set to one thread, but decord decodes on one of its own while another waits for it or converts the picture.
    So rates are by the processor time of all threads together, which also depends less than wall time on what else the
    machine does.

    Attributes:
        file: its path.
        sampling: how frames were chosen, "time" or "stride".
        width, height: size of the picture, in pixels.
        decoder: with which the loader reads the file, "decord" or "pyav".
        clips_per_second: rate of the loader on one core: the file's cached index, decoding, antialiased resize and
            crop; median.
        decord_clips_per_second: rate of `decord.VideoReader(file, num_threads=1).get_batch(frames)` alone.
        ratio: ratio of the two rates, median over the rounds.
        lowest_ratio: lowest ratio of any round.
        wall_ratio: the same as `ratio` by wall time.
        decoded_frames: frames from the key frame before the clip to its end, which both must decode; mean.
        index_seconds: processor time of `index_frames`, which recalls the file's index after the warm-up; median.
        rounds: how many.
    """

    file: str
    sampling: str
    width: int
    height: int
    decoder: str
    clips_per_second: float
    decord_clips_per_second: float
    ratio: float
    lowest_ratio: float
    wall_ratio: float
    decoded_frames: float
    index_seconds: float
    rounds: int

    def __str__(self) -> str:
        return (
            f"{Path(self.file).name[:24]:24} {self.sampling:8} {self.width:5} {self.height:6} {self.decoder:7} "
            f"{self.clips_per_second:8.2f} {self.decord_clips_per_second:8.2f} {self.ratio:6.1%} "
            f"{self.lowest_ratio:6.1%} {self.wall_ratio:6.1%} {self.decoded_frames:6.1f} "
            f"{1000 * self.index_seconds:8.2f}"
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside the block."""
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(former)


class Seconds(NamedTuple):
    """Processor time and wall time of a call."""

    cpu: float
    wall: float


def seconds(work: Callable[[], object]) -> Seconds:
    """Time a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def benchmark_file(path: str, reader: ClipReader, rounds: int) -> LoaderResult:
    """Read clips of a file at random starts, with the loader and with decord in turns.

    Args:
        path: the video.
        reader: how the loader reads it.
        rounds: clips, after one that warms up.

    Raises:
        UnreadableVideo: if the loader cannot read the file.
    """
    video_reader = importlib.import_module("decord").VideoReader
    index = index_frames(path)
    loader_times, decord_times, index_times, decoded = [], [], [], []
    for round_ in range(rounds + 1):
        seed = derive_seed("benchmark", round_)
        positions = reader.choose(path, index, np.random.default_rng(seed))

        def load(seed: int = seed) -> None:
            reader.read(path, np.random.default_rng(seed))

        def decode(positions: np.ndarray = positions) -> None:
            video_reader(path, num_threads=1).get_batch(positions)

        turns = [(load, loader_times), (decode, decord_times)]
        for work, times in turns if round_ % 2 else reversed(turns):
            times.append(seconds(work))
        index_times.append(seconds(lambda: index_frames(path)))
        decoded.append(int(positions[-1] + 1 - np.flatnonzero(index.is_key[: positions[0] + 1]).max(initial=0)))
    return _summary(path, reader, *(times[1:] for times in (loader_times, decord_times, index_times, decoded)))


def _summary(
    path: str,
    reader: ClipReader,
    loader_times: Sequence[Seconds],
    decord_times: Sequence[Seconds],
    index_times: Sequence[Seconds],
    decoded: Sequence[int],
) -> LoaderResult:
    height, width = ClipReader(1, sample_fps=None).read(path).shape[1:3]
    both = list(zip(loader_times, decord_times, strict=True))
    ratios = [decord.cpu / loader.cpu for loader, decord in both]
    return LoaderResult(
        file=path,
        sampling=reader.sampling,
        width=width,
        height=height,
        decoder=reader.decoder_name,
        clips_per_second=1 / statistics.median(times.cpu for times in loader_times),
        decord_clips_per_second=1 / statistics.median(times.cpu for times in decord_times),
        ratio=statistics.median(ratios),
        lowest_ratio=min(ratios),
        wall_ratio=statistics.median(decord.wall / loader.wall for loader, decord in both),
        decoded_frames=statistics.mean(decoded),
        index_seconds=statistics.median(times.cpu for times in index_times),
        rounds=len(ratios),
    )


def results(config: DataBenchmarkConfig) -> Iterator[LoaderResult]:
    """Measure every file and sampling; a file that cannot be read is printed with the reason, and left out."""
    videos = VideoFolder(config.videos, config.num_frames, config.size, val_share=0.0)
    for path in dict.fromkeys(videos.source(index) for index in range(len(videos))):
        for sampling in config.samplings:
            reader = ClipReader(
                config.num_frames, config.size, sample_fps=config.sample_fps, sampling=sampling, crop="random"
            )
            try:
                yield benchmark_file(path, reader, config.rounds)
            except UnreadableVideo as error:
                print(f"left out: {error}", file=sys.stderr)


def execute(config: DataBenchmarkConfig) -> None:
    """Time the loader on files, print and write."""
    if importlib.util.find_spec("decord") is None:
        raise UserError("decord is not installed, and the loader is measured beside it: pip install decord")
    measured = []
    with one_thread():
        machine = environment(torch.device("cpu"))
        print(", ".join(f"{key} {value}" for key, value in machine.items()), HEADER, sep="\n", flush=True)
        for row in results(config):
            print(row, flush=True)
            measured.append(row)
    if not measured:
        raise UserError(f"none of the videos in {config.videos} can be read")
    write_json(config.output, "data", machine, measured)
    slowest = min(measured, key=lambda row: row.ratio)
    print(
        "ratio: clips per second of processor time, the loader's over those of decord alone for the same frames; both "
        f"open the file; median over the rounds; lowest for a file: {slowest.ratio:.1%} "
        f"({Path(slowest.file).name}, {slowest.sampling}); written to {config.output}"
    )
