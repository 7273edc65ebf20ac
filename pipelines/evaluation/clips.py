"""Clips to measure a generator by: which real ones, which samples, where these are kept, and what is seen in them.

The protocol is that of the published numbers on UCF-101: the real clips are drawn uniformly over videos and without
replacement, one clip per video from a random start; samples have the classes of the real clips, one for one; both sides
are rounded to uint8 at the resolution of the model before the features are taken. Beside the samples stand two floors:
the real clips through the autoencoder, and real clips of other videos.

Everything is a function of the seed and of constants that the report states. It is independent of the number of
processes, because they share out whole batches, and what they find is put in order before anything is added up.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from einops import rearrange
from safetensors import safe_open
from torch.utils.data import DataLoader, Dataset

from autoencoder.common.errors import UserError
from autoencoder.common.files import save_safetensors
from autoencoder.common.processes import from_all
from autoencoder.common.seeding import derive_seed
from autoencoder.common.signals import leave_signals_to_the_parent
from autoencoder.data import ClipDataset, UnreadableVideo
from autoencoder.data.folder import VideoFiles
from autoencoder.data.frame_index import video_length
from autoencoder.data.video_io import ClipReader
from autoencoder.metrics import FrechetVideoDistance
from autoencoder.metrics.distance import VideoFeatureExtractor
from autoencoder.metrics.oracle import Verdict, oracle

METADATA_KEY = "samples"  # key of the metadata of a chunk
T = TypeVar("T")

Sampler = Callable[[Sequence[int], Sequence[int]], torch.Tensor]
"""Classes and places of samples, both (B,), to samples uint8 (B, T, H, W, 3); a sample depends on its own alone."""


@dataclass(frozen=True)
class ClipFindings:
    """What is kept of a clip.

    Attributes:
        features: float32 (num_features,) on the CPU; None without an extractor.
        verdict: of the oracle; None where the clips are not moving shapes.
    """

    features: torch.Tensor | None
    verdict: Verdict | None


class ClipMeasurer:
    """Looks at clips as the distances and the oracle do.

    Args:
        extractor: of features; None takes none.
        with_oracle: whether the clips are moving shapes.
        batch_size: clips that go through the extractor at a time.
        device: of the extractor.
    """

    def __init__(
        self, extractor: VideoFeatureExtractor | None, with_oracle: bool, batch_size: int, device: torch.device
    ):
        self.extract = None if extractor is None else FrechetVideoDistance(extractor).to(device).extract
        self.with_oracle, self.batch_size = with_oracle, batch_size

    def __call__(self, frames: torch.Tensor) -> list[ClipFindings]:
        """Look at clips uint8 (B, T, H, W, 3)."""
        features, verdicts = [None] * len(frames), [None] * len(frames)
        if self.extract is not None:
            videos = rearrange(frames, "b t h w c -> b c t h w").split(self.batch_size)
            features = list(torch.cat([self.extract(video) for video in videos]).cpu())
        if self.with_oracle:
            verdicts = [oracle(clip) for clip in frames]
        return [ClipFindings(*pair) for pair in zip(features, verdicts, strict=True)]


def chunks_of(clips: VideoFiles) -> VideoFiles:
    """The consecutive stretches of every video that are as long as a clip and do not overlap.

    A video that is shorter, or whose header cannot be read, counts as one stretch, which the draw passes over.
    """
    paths, labels, windows = [], [], []
    for index in range(len(clips)):
        path = clips.source(index)
        try:
            seconds, fps = video_length(path)
        except UnreadableVideo:
            seconds, fps = 0.0, None
        length = clips.reader.num_frames * _seconds_between_frames(clips.reader, fps)
        starts = [length * number for number in range(max(1, int(seconds / length + 1e-6)))]
        paths += [path] * len(starts)
        labels += [clips.label(index)] * len(starts)
        windows += [(start, start + length) for start in starts]
    named = {"labels": labels, "class_names": clips.class_names} if clips.class_names else {}
    return VideoFiles(clips.root, paths, clips.reader, windows=np.array(windows), **named)


def _seconds_between_frames(reader: ClipReader, fps: float | None) -> float:
    """Of a clip from a video of `fps` frames per second; infinite where that is not known and would be needed."""
    if reader.sampling == "time" and reader.sample_fps is not None:
        return 1 / reader.sample_fps
    if fps is None:
        return math.inf
    return (1 if reader.sample_fps is None else max(1, round(fps / reader.sample_fps))) / fps


class _DrawnClips(Dataset):
    """Clips in the order of a draw, each from a random start; where one cannot be read, the reason."""

    def __init__(self, clips: ClipDataset, order: np.ndarray, seed: int):
        self.clips, self.order, self.seed = clips, order, seed

    def __getitem__(self, place: int) -> tuple[int, torch.Tensor | str]:
        index = int(self.order[place])
        start = np.random.default_rng(derive_seed(self.seed, "evaluate: real clip", index))
        try:
            return place, self.clips.clip(index, start)
        except UnreadableVideo as error:
            return place, str(error)


class RealClips:
    """Disjoint draws from a data set: uniform over its videos, without replacement, a function of the seed.

    Args:
        clips: the data set.
        seed: of the repeat.
        batch_size: clips that are looked at together.
        rank, world_size: of this process, which reads its share.
        num_workers: processes that read for it.

    Attributes:
        unreadable: why files could not be read, by index; they are passed over.
    """

    def __init__(
        self, clips: ClipDataset, seed: int, batch_size: int, rank: int = 0, world_size: int = 1, num_workers: int = 0
    ):
        self.order = np.random.default_rng(derive_seed(seed, "evaluate: real clips")).permutation(len(clips))
        self.drawn = _DrawnClips(clips, self.order, seed)
        self.batch_size, self.rank, self.world_size, self.num_workers = batch_size, rank, world_size, num_workers
        self.next = 0
        self.unreadable: dict[int, str] = {}

    @property
    def num_left(self) -> int:
        """Videos that were not tried."""
        return len(self.order) - self.next

    def take(self, count: int, measure: Callable[[torch.Tensor], list[T]]) -> dict[int, T]:
        """Read clips that were not read before; all processes must call it.

        Args:
            count: of the clips.
            measure: from clips uint8 (B, T, H, W, 3) to one finding per clip.

        Returns:
            Findings by index, in the order of the draw; fewer than `count` where the data set runs out.
        """
        found: dict[int, T] = {}
        while len(found) < count and self.num_left:
            places = range(self.next, self.next + min(count - len(found), self.num_left))
            self.next = places.stop
            for findings, reasons in from_all(self._read(places, measure)):
                found |= findings
                self.unreadable |= reasons
        return {int(self.order[place]): found[place] for place in sorted(found)}

    def _read(self, places: range, measure: Callable[[torch.Tensor], list[T]]) -> tuple[dict[int, T], dict[int, str]]:
        """This process's share of the places: findings by place, and reasons by index."""
        batches = [places[start : start + self.batch_size] for start in range(0, len(places), self.batch_size)]
        loader = DataLoader(
            self.drawn,
            batch_sampler=batches[self.rank :: self.world_size],
            collate_fn=list,
            num_workers=self.num_workers,
            worker_init_fn=leave_signals_to_the_parent,
        )
        found, reasons = {}, {}
        for batch in loader:
            readable = {place: clip for place, clip in batch if not isinstance(clip, str)}
            reasons |= {int(self.order[place]): clip for place, clip in batch if isinstance(clip, str)}
            if readable:
                found |= zip(readable, measure(torch.stack(list(readable.values()))), strict=True)
        return found, reasons


class SampleStore:
    """The samples of one repeat, in chunks that are files of their own, lossless and whole or not there.

    Args:
        folder: of the files; None keeps no samples.
        identity: what the samples are a function of, beside their classes.
        labels: class of every sample.
        chunk_size: samples of a chunk.

    Raises:
        ValueError: if the folder holds samples of something else.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any], labels: Sequence[int], chunk_size: int):
        self.folder, self.labels, self.chunk_size = folder, list(labels), chunk_size
        self.identity = json.loads(json.dumps(identity | {"chunk_size": chunk_size}))
        self.places = [
            range(first, min(first + chunk_size, len(self.labels))) for first in range(0, len(self.labels), chunk_size)
        ]
        for path in sorted(folder.glob("chunk-*.safetensors")) if folder is not None else ():
            self._check(path)

    def get(self, number: int, sample: Sampler, batch_size: int) -> torch.Tensor:
        """Chunk `number`, uint8 (B, T, H, W, 3), made and kept if it is not there."""
        places = self.places[number]
        labels = [self.labels[place] for place in places]
        path = None if self.folder is None else self.folder / f"chunk-{number:05d}.safetensors"
        if path is not None and path.is_file():
            with safe_open(path, "pt") as file:
                frames = file.get_tensor("frames")
            if len(frames) >= len(labels):  # fewer are of an evaluation of fewer samples
                return frames[: len(labels)]
        frames = _sample_in_whole_batches(sample, labels, places.start, batch_size)
        if path is not None:
            metadata = {METADATA_KEY: json.dumps(self.identity, sort_keys=True)}
            save_safetensors({"frames": frames, "labels": torch.tensor(labels)}, path, metadata)
        return frames

    def _check(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            different = [name for name in self.identity if found.get(name) != self.identity[name]]
            labels = [] if different else file.get_tensor("labels").tolist()
        first = self.chunk_size * int(path.stem.removeprefix("chunk-"))
        pairs = zip(labels, self.labels[first : first + self.chunk_size], strict=False)  # either may go on
        if different or any(kept != wanted for kept, wanted in pairs):
            there, here = ({name: values.get(name) for name in different} for values in (found, self.identity))
            unlike = f"with {there}, here it is {here}" if different else "of other classes"
            raise UserError(f"{path} holds samples {unlike}: give another output_dir, or remove that folder")


def _sample_in_whole_batches(sample: Sampler, labels: Sequence[int], first: int, batch_size: int) -> torch.Tensor:
    """Samples with the given classes and the places `first`, `first` + 1, ...: uint8 (B, T, H, W, 3).

    The last bits of a sample depend on the size of the batch around it, though not on what else is in it. So a batch is
    always whole, and what is too much of it is dropped.
    """
    parts = []
    for start in range(0, len(labels), batch_size):
        wanted = list(labels[start : start + batch_size])
        filled = wanted + wanted[-1:] * (batch_size - len(wanted))
        parts.append(sample(filled, range(first + start, first + start + batch_size))[: len(wanted)])
    return torch.cat(parts)
