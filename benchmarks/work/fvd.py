"""The work of `python -m benchmarks.fvd`."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoencoder.common.device import resolve_device
from autoencoder.common.progress import progress_bar
from autoencoder.metrics import I3D, FrechetVideoDistance
from autoencoder.metrics.i3d_network import SIDE
from benchmarks.fvd import FvdConfig
from benchmarks.published import NOISE_FVD, NOISE_VIDEOS
from benchmarks.report import environment, write_json

NUM_FRAMES = 16
SEEDS = {"fake": 1, "real": 2}
TOLERANCE = 1e-4  # of the relative difference, which rounding in float32 does not reach


@dataclass(frozen=True)
class FvdRow:
    """The distance by one implementation.

    Attributes:
        implementation: its name, or the title of our distance.
        fvd: the distance.
        ours_over_it: relative difference of ours; None for our own, and where the number of videos is another.
        source: the text that the figure was read in; None for ours.
    """

    implementation: str
    fvd: float
    ours_over_it: float | None = None
    source: str | None = None

    def __str__(self) -> str:
        difference = "" if self.ours_over_it is None else f"{self.ours_over_it:+20.1e}"
        return f"{self.implementation:36}{self.fvd:12.6f}{difference}"


def noise_videos(seed: int, count: int) -> Iterator[torch.Tensor]:
    """Videos float32 (1, 3, 16, 224, 224) in [0, 1), one after the other, in numpy's order of drawing them at once."""
    generator = np.random.RandomState(seed)
    for _ in range(count):
        video = generator.rand(NUM_FRAMES, SIDE, SIDE, 3).astype(np.float32)
        yield torch.from_numpy(video).movedim(-1, 0)[None]


def measure(i3d: I3D, count: int, device: torch.device) -> FrechetVideoDistance:
    """The distance, with the videos of both sets added; they are not brought to [-1, 1], as in what was published."""
    metric = FrechetVideoDistance(i3d).to(device)
    for side, seed in SEEDS.items():
        for video in progress_bar(count, f"{side} videos", "video", over=noise_videos(seed, count)):
            metric.update_features(i3d.logits(video.to(device)), real=side == "real")
    return metric


def verdict(differences: Sequence[float | None]) -> str:
    """One line on relative differences to the published figures."""
    if None in differences:
        return f"the published figures are those of {NOISE_VIDEOS} videos, and do not compare"
    agrees = max(map(abs, differences)) <= TOLERANCE
    return f"ours {'agrees' if agrees else 'DOES NOT AGREE'} with the published figures within {TOLERANCE:g}, relative"


def execute(config: FvdConfig) -> None:
    """Measure the distance, print it beside the published ones and write it."""
    device = resolve_device(config.device)
    i3d, start = I3D.installed(), time.perf_counter()
    metric = measure(i3d, config.num_videos, device)
    ours = metric.compute().item()
    comparable = config.num_videos == NOISE_VIDEOS
    rows = [
        FvdRow(name, value, ours / value - 1 if comparable else None, source)
        for name, (value, source) in NOISE_FVD.items()
    ]
    rows.append(FvdRow(metric.title, ours))
    print(f"{f'{config.num_videos} and {config.num_videos} videos':36}{'FVD':>12}{'ours over it':>20}", *rows, sep="\n")
    print(verdict([row.ours_over_it for row in rows[:-1]]))
    about = {"numpy": np.__version__, "seconds": round(time.perf_counter() - start, 1)}
    about |= {"num_videos": config.num_videos, "extractor": i3d.identity}
    write_json(config.output_dir / "fvd.json", "fvd", environment(device) | about, rows)
    print(f"wrote fvd.json to {config.output_dir}")
