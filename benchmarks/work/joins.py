"""The work of `python -m benchmarks.joins`."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path

import numpy as np
import torch

from autoencoder.checkpoint import load_autoencoder
from autoencoder.data.clips import to_video
from autoencoder.vidtwin import AutoencoderVidTwin
from autoencoder.whole_videos.clips import Fit, chosen_overlap, decode_frames, encode_frames
from autoencoder.whole_videos.video_file import open_file
from benchmarks.joins import JoinsConfig
from benchmarks.report import environment, write_json

HEADER = f"{'video':20} {'overlap':>7} {'borders':>7} {'inside':>7} {'mean':>6} {'p95':>6} {'original':>9} {'p95':>6}"


@dataclass(frozen=True)
class Joins:
    """How visible the joins of a video are.

    Attributes:
        video: its name; "all" stands for the transitions of all videos together.
        overlap: frames that neighbouring clips share.
        num_borders, num_inside: transitions between frames of either kind.
        mean, p95: mean and 95th percentile of the difference at borders over those inside clips.
        original_mean, original_p95: the same of the original at the same places.
    """

    video: str
    overlap: int
    num_borders: int
    num_inside: int
    mean: float
    p95: float
    original_mean: float
    original_p95: float

    def __str__(self) -> str:
        return (
            f"{self.video[:20]:20} {self.overlap:7} {self.num_borders:7} {self.num_inside:7} {self.mean:6.3f} "
            f"{self.p95:6.3f} {self.original_mean:9.3f} {self.original_p95:6.3f}"
        )


def is_border(num_transitions: int, num_frames: int, overlap: int) -> np.ndarray:
    """Which transitions lead from one clip to the next.

    Args:
        num_transitions: one less than the video's frames; transition i leads from frame i to frame i + 1.
        num_frames: frames of a clip.
        overlap: frames that neighbouring clips share.

    Returns:
        bool (num_transitions,).
    """
    frame = np.arange(1, num_transitions + 1)
    step = num_frames - overlap
    last_border = max(0, -(-(num_transitions + 1 - num_frames) // step)) * step + overlap
    return (frame >= step) & (frame % step <= overlap) & (frame <= last_border)


def measure(model: AutoencoderVidTwin, path: Path, overlap: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean absolute difference of neighbouring frames, letterbox bars left out.

    Returns:
        Those of the reconstruction, those of the original, and which of them are at borders: (N - 1,) each.
    """
    video = open_file(path)
    fit = Fit("pad", video.format.width, video.format.height, model.config.sample_size)
    top, left, height, width = fit.box
    ahead, behind = tee(fit.into(pixels) for pixels, _, _ in video.frames())
    squares = decode_frames(model, encode_frames(model, ahead, overlap), overlap)
    differences, former = [], None
    for original, square in zip(behind, squares, strict=False):  # the decoded frames go on with repeats of the last
        both = torch.stack([square.clamp(-1, 1), to_video(original[None, None])[0, :, 0]])  # (2, 3, S, S)
        both = both[:, :, top : top + height, left : left + width]  # (2, 3, h, w)
        if former is not None:
            differences.append((both - former).abs().mean((1, 2, 3)))
        former = both
    rows = torch.stack(differences, dim=1).numpy() if differences else np.empty((2, 0))  # (2, N - 1)
    return *rows, is_border(len(differences), model.config.num_frames, overlap)


def summarize(
    video: str, overlap: int, reconstruction: np.ndarray, original: np.ndarray, border: np.ndarray
) -> Joins | None:
    """A row of the table; None where there are no borders, or nothing else."""
    if not border.any() or border.all():
        return None

    def ratios(values: np.ndarray) -> tuple[float, float]:
        at, inside = values[border], values[~border]
        return float(at.mean() / inside.mean()), float(np.percentile(at, 95) / np.percentile(inside, 95))

    return Joins(video, overlap, int(border.sum()), int((~border).sum()), *ratios(reconstruction), *ratios(original))


def execute(config: JoinsConfig, videos: Sequence[Path]) -> None:
    """Measure the joins of videos, print and write."""
    model = load_autoencoder(config.checkpoint, config.device)
    num_frames = model.config.num_frames
    overlaps = [0, chosen_overlap(None, num_frames)] if config.overlaps is None else config.overlaps
    print(HEADER)
    rows = []
    for overlap in [chosen_overlap(overlap, num_frames) for overlap in overlaps]:
        measured = [measure(model, path, overlap) for path in videos]
        named = [(path.stem, values) for path, values in zip(videos, measured, strict=True)]
        together = tuple(np.concatenate(column) for column in zip(*measured, strict=True))
        for name, values in [*named, ("all", together)]:
            row = summarize(name, overlap, *values)
            print(f"{name[:20]:20} {overlap:7} nothing to compare" if row is None else row)
            rows += [] if row is None else [row]
    write_json(config.json, "joins", environment(model.device), rows)
