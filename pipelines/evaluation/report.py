"""The results of an evaluation: distances over its repeats, and tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from autoencoder.metrics import FrechetVideoDistance, KernelVideoDistance
from autoencoder.metrics.distance import VideoFeatureExtractor
from pipelines.evaluation.clips import ClipFindings

OTHER_REAL = "other real clips"
DISTANCES = (FrechetVideoDistance, KernelVideoDistance)
NOT_MEASURED = "not measured"


@dataclass
class Repeat:
    """The findings of one seed.

    Attributes:
        seed: the repeat's seed.
        real: findings of the real clips, by index in the data set.
        reconstructions: the same clips through the autoencoder.
        other_real: findings of real clips of other videos; fewer than `real` if the data set runs out.
        samples: findings of one sample for every real clip, of its class.
        unreadable: reasons of files that could not be read, by index.
    """

    seed: int
    real: dict[int, ClipFindings]
    reconstructions: dict[int, ClipFindings]
    other_real: dict[int, ClipFindings] = field(default_factory=dict)
    samples: list[ClipFindings] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, list[ClipFindings]]:
        """The sets of clips that are compared with the real ones, by name."""
        rows = {"samples": self.samples, "reconstructions": list(self.reconstructions.values())}
        return rows | ({OTHER_REAL: list(self.other_real.values())} if self.has_other_real else {})

    @property
    def has_other_real(self) -> bool:
        """Whether there are as many other real clips as real ones."""
        return len(self.other_real) == len(self.real)


def measure_distances(
    repeats: Sequence[Repeat], extractor: VideoFeatureExtractor
) -> dict[str, dict[str, dict[str, Any]]]:
    """The distances from the real clips over the repeats: `summary` by title of the distance, then by row.

    A row that not every repeat has is left out.
    """
    result = {}
    for distance in DISTANCES:
        metric = distance(extractor)
        result[metric.title] = {
            row: summary([_distance(metric, repeat, row) for repeat in repeats])
            for row in repeats[0].rows
            if all(row in repeat.rows for repeat in repeats)
        }
    return result


def _distance(metric: FrechetVideoDistance | KernelVideoDistance, repeat: Repeat, row: str) -> float:
    metric.reset()
    for findings, real in ((repeat.real.values(), True), (repeat.rows[row], False)):
        metric.update_features(torch.stack([found.features for found in findings]), real=real)
    return metric.compute().item()


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation, the latter None for one value, and the values."""
    mean = math.fsum(values) / len(values)
    spread = None
    if len(values) > 1:
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return {"mean": mean, "spread": spread, "values": list(values)}


def card_metrics(report: dict[str, Any]) -> dict[str, str]:
    """Lines about the samples for a model card, by metric."""
    columns = {title: rows["samples"] for title, rows in report["distances"].items()}
    protocol = report["protocol"]
    steps, guidance = protocol["num_inference_steps"], protocol["guidance_scale"]
    how = f"{protocol['num_samples']} clips, {steps} steps, guidance {guidance}"
    metrics = {title: f"{_cell(values, '{:.3f}')} ({how})" for title, values in columns.items()}
    if report["class_shares"]:
        share = _cell(report["class_shares"]["samples"]["both"], "{:.1%}")
        metrics["shape and motion confirmed by the oracle"] = f"{share} ({how})"
    return metrics


def table(report: dict[str, Any]) -> str:
    """The report as lines to print."""
    protocol = report["protocol"]
    lines = _columns("distance from real clips", report["distances"]) if report["distances"] else []
    lines += [f"{name}: {NOT_MEASURED}, {reason}" for name, reason in report["not_measured"].items()]
    shares = report["class_shares"]
    if shares:
        names = shares["samples"]
        turned = {name: {row: values[name] for row, values in shares.items()} for name in names}
        lines += ["", *_columns("confirmed by the oracle", turned, percent=True)]
    seeds = ", ".join(map(str, protocol["seeds"]))
    lines += [
        "",
        f"{protocol['num_samples']} clips of {protocol['num_frames']} frames at {protocol['size']} x "
        f"{protocol['size']}, seeds {seeds}; {protocol['dataset']}, split {protocol['split']}, take "
        f"{protocol['take']}; mean and standard deviation over the seeds",
        f"{protocol['scheduler']}, {protocol['num_inference_steps']} steps, guidance {protocol['guidance_scale']}; "
        f"{protocol['dtype']} on {protocol['device']}",
        f"clips that could not be read: {', '.join(map(str, report['unreadable']))}",
    ]
    return "\n".join(lines)


def _columns(heading: str, columns: dict[str, dict[str, dict[str, Any]]], percent: bool = False) -> list[str]:
    """A line for every row of the columns, mean ± spread."""
    form = "{:.1%}" if percent else "{:.3f}"
    widths = [max(20, len(name) + 2) for name in columns]
    lines = [f"{heading:26}" + "".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))]
    for row in next(iter(columns.values())):
        cells = [_cell(column[row], form) for column in columns.values()]
        lines.append(f"{row:26}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
    return lines


def _cell(values: dict[str, Any], form: str) -> str:
    """Mean ± spread."""
    return form.format(values["mean"]) + ("" if values["spread"] is None else f" ± {form.format(values['spread'])}")
