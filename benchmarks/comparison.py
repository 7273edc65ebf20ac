"""Comparing variants that were trained for equal steps with several seeds: means, spreads and verdicts."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autoencoder.common.commands import start_command
from autoencoder.common.files import atomic_path
from autoencoder.common.plots import read_scalars

Runs = Mapping[str, Sequence[Mapping[str, float]]]  # by variant, the scores of each seed's run by name


def train(module: str, arguments: Sequence[str], folder: Path) -> None:
    """Run a training command into a folder, whose former contents are removed."""
    shutil.rmtree(folder, ignore_errors=True)
    start_command(module, [*arguments, "--output-dir", str(folder)])


def last_scalars(folder: Path, tags: Sequence[str]) -> dict[str, float]:
    """The last records of a run, by their names without the part before the slash."""
    return {tag.split("/")[1]: points[-1].value for tag, points in read_scalars(folder, *tags).items()}


def summarize(runs: Runs, decisive: str) -> list[dict]:
    """Mean and standard deviation over the seeds, and how each variant compares with the first.

    Args:
        runs: scores of every run, by variant.
        decisive: the score that variants are compared by, the higher the better. A difference that is not larger than
            the two standard deviations together is a tie.

    Returns:
        A row per variant: `variant`, `seeds`, every score with `<score>_std` (None for one seed) and, but for the
        first, `difference` and `verdict`.
    """
    rows = []
    for name, results in runs.items():
        row = {"variant": name, "seeds": len(results)}
        for score in results[0]:
            values = [result[score] for result in results]
            row[score] = float(np.mean(values))
            row[f"{score}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows.append(row)
    first = rows[0]
    for row in rows[1:]:
        row["difference"] = row[decisive] - first[decisive]
        spreads = (row[f"{decisive}_std"], first[f"{decisive}_std"])
        if None in spreads:
            row["verdict"] = "not measured: one seed"
        elif abs(row["difference"]) <= sum(spreads):
            row["verdict"] = "tie"
        else:
            row["verdict"] = "better" if row["difference"] > 0 else "worse"
    return rows


def with_spread(row: Mapping, score: str, digits: int, scale: float = 1.0) -> str:
    """A score as "mean ± standard deviation"."""
    spread = row[f"{score}_std"]
    mean = f"{scale * row[score]:.{digits}f}"
    return mean if spread is None else f"{mean} ± {scale * spread:.{digits}f}"


def write_report(path: Path, settings: Mapping, rows: Sequence[Mapping], runs: Runs) -> None:
    """Everything that was measured, as JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({**settings, "rows": rows, "runs": runs}, indent=2) + "\n")
