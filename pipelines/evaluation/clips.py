"""The clips of an evaluation: drawing real ones, and measuring real and sampled ones.

The protocol is that of the published numbers on UCF-101: the real clips are drawn uniformly over videos and without
replacement, one clip per video from a random start; samples have the classes of the real clips, one for one; both sides
are rounded to uint8 at the resolution of the model before features are extracted. Two baselines are measured beside the
samples: the real clips through the autoencoder, and real clips of other videos.

Everything is a function of the seed and of constants that the report states. It is independent of the number of
processes, because they share whole batches, and findings are put in order before they are summed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from einops import rearrange
from torch.utils.data import DataLoader, Dataset

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

T = TypeVar("T")


@dataclass(frozen=True)
class ClipFindings:
    """The measurements of a clip.

    Attributes:
        features: float32 (num_features,) on the CPU; None without an extractor.
        verdict: the oracle's verdict; None where the clips are not moving shapes.
    """

    features: torch.Tensor | None
    verdict: Verdict | None


class ClipMeasurer:
    """Extracts the features of clips for the distances, and lets the oracle judge them.

    Args:
        extractor: feature extractor; None extracts none.
        shapes: the shapes that the oracle tells apart; None if the clips are no moving shapes.
        batch_size: clips that go through the extractor at a time.
        device: the extractor's device.
    """

    def __init__(
        self,
        extractor: VideoFeatureExtractor | None,
        shapes: Sequence[str] | None,
        batch_size: int,
        device: torch.device,
    ):
        self.extract = None if extractor is None else FrechetVideoDistance(extractor).to(device).extract
        self.shapes, self.batch_size = shapes, batch_size

    def __call__(self, frames: torch.Tensor) -> list[ClipFindings]:
        """Measure clips uint8 (B, T, H, W, 3)."""
        features, verdicts = [None] * len(frames), [None] * len(frames)
        if self.extract is not None:
            videos = rearrange(frames, "b t h w c -> b c t h w").split(self.batch_size)
            features = list(torch.cat([self.extract(video) for video in videos]).cpu())
        if self.shapes is not None:
            verdicts = [oracle(clip, self.shapes) for clip in frames]
        return [ClipFindings(*pair) for pair in zip(features, verdicts, strict=True)]


def chunks_of(clips: VideoFiles) -> VideoFiles:
    """A data set with one entry for every consecutive, non-overlapping stretch of a video that is as long as a clip.

    A video that is shorter, or whose header cannot be read, counts as one stretch, which `RealClips` skips.
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
    """Seconds between a clip's frames, in a video of `fps` frames per second; infinite if `fps` is needed but None."""
    if reader.sampling == "time" and reader.sample_fps is not None:
        return 1 / reader.sample_fps
    if fps is None:
        return math.inf
    return (1 if reader.sample_fps is None else max(1, round(fps / reader.sample_fps))) / fps


class _DrawnClips(Dataset):
    """Clips in the order of a draw, each from a random start; if one cannot be read, the reason instead."""

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
        seed: the repeat's seed.
        batch_size: clips that are measured together.
        rank, world_size: rank of this process, which reads its share, and number of processes.
        num_workers: processes that read for it.

    Attributes:
        unreadable: reasons of files that could not be read, by index; they are skipped.
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
        """Videos that were not tried yet."""
        return len(self.order) - self.next

    def take(self, count: int, measure: Callable[[torch.Tensor], list[T]]) -> dict[int, T]:
        """Read clips that were not read before; all processes must call it.

        Args:
            count: number of clips.
            measure: maps clips uint8 (B, T, H, W, 3) to one finding per clip.

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
