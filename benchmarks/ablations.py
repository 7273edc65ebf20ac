"""The paper's ablations of the autoencoder, trained for equal steps on the same data: `python -m benchmarks.ablations`.

Every variant is trained with each of the seeds by `python -m autoencoder.train`; what counts is the last validation.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import configs
from autoencoder import AutoencoderVidTwin
from autoencoder.files import atomic_path
from benchmarks.report import environment

FULL, ONE_LATENT = "full", "one_latent"
# PAPER.md, Sizes and rates: PSNR in dB and SSIM "at one early step" of the paper's own training.
PAPER = {
    FULL: (26.116, 0.731),
    ONE_LATENT: (23.512, 0.654),
    "dynamics_qformer": (24.835, 0.693),
    "convolution": (25.386, 0.702),
    "space_in_hidden": (23.169, 0.630),
}


@dataclass
class AblationConfig:
    """The comparison."""

    preset: str = "tiny"
    """Preset, or YAML file, of the full model and its training."""
    max_steps: int = 600
    """Optimiser steps of every run."""
    seeds: int = 3
    """Runs of every variant, with the seeds 0, 1, 2, ..."""
    variants: str = ",".join(PAPER)
    """Variants to train, separated by commas; the first is what the others are compared with."""
    dataset: str | None = None
    """Data set; by default the preset's."""
    data_root: str | None = None
    """Folder of the data."""
    output_dir: Path = Path("outputs/ablations")
    """Folder of the runs and of ablations.json; the runs of an earlier comparison are replaced."""

    def __post_init__(self):
        if self.seeds < 1 or self.max_steps < 1:
            raise ValueError(f"seeds and max_steps must be at least 1, got {self.seeds} and {self.max_steps}")
        unknown = [name for name in self.names if name not in PAPER]
        if unknown:
            raise ValueError(f"variants must be of {', '.join(PAPER)}, got {', '.join(unknown)}")

    @property
    def names(self) -> list[str]:
        """The variants."""
        return self.variants.split(",")


def channels_of_one_latent(full: AutoencoderVidTwin) -> int:
    """Channels of a structure latent that, alone, reaches the rate of both latents or the least above it."""
    channels, *grid = full.structure_shape
    return -(-full.num_latent_scalars // torch.Size(grid).numel())


def flags(config: AblationConfig, name: str, seed: int, folder: Path) -> list[str]:
    """Arguments of `autoencoder.train` for one run."""
    arguments = ["--config", config.preset]
    if name != FULL:
        arguments += ["--config", name]
    if name == ONE_LATENT:
        arguments += ["--model.structure-channels", str(channels_of_one_latent(_full_model(config)))]
    if config.dataset:
        arguments += ["--dataset", config.dataset]
    if config.data_root:
        arguments += ["--data-root", config.data_root]
    last = ["--max-steps", "--validate-every", "--checkpoint-every"]
    arguments += [part for flag in last for part in (flag, str(config.max_steps))]
    return [*arguments, "--seed", str(seed), "--output-dir", str(folder)]


def _full_model(config: AblationConfig) -> AutoencoderVidTwin:
    from autoencoder.train import parse

    with torch.device("meta"):
        return parse(["--config", config.preset])[1]


def train(config: AblationConfig, name: str, seed: int) -> dict[str, float]:
    """One run; returns its rate in percent and its last validation."""
    folder = config.output_dir / f"{name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "autoencoder.train", *flags(config, name, seed, folder)]
    print(f"\n$ python {' '.join(command[1:])}", flush=True)
    subprocess.run(command, check=True)
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    scores = {metric: events.Scalars(f"val/{metric}")[-1].value for metric in ("psnr", "ssim")}
    return {"rate": 100 * AutoencoderVidTwin.from_pretrained(folder / "model").compression_rate, **scores}


def summarize(runs: dict[str, list[dict[str, float]]]) -> list[dict]:
    """Mean and standard deviation over the seeds, and how each variant compares with the first.

    A difference of PSNR that is not larger than the two standard deviations together is a tie.
    """
    rows = []
    for name, results in runs.items():
        row = {"variant": name, "seeds": len(results), "rate": results[0]["rate"], "paper": PAPER[name]}
        for metric in ("psnr", "ssim"):
            values = [result[metric] for result in results]
            row[metric] = float(np.mean(values))
            row[f"{metric}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows.append(row)
    first = rows[0]
    for row in rows[1:]:
        row["difference"] = row["psnr"] - first["psnr"]
        spreads = (row["psnr_std"], first["psnr_std"])
        if None in spreads:
            row["verdict"] = "not measured: one seed"
        elif abs(row["difference"]) <= sum(spreads):
            row["verdict"] = "tie"
        else:
            row["verdict"] = "better" if row["difference"] > 0 else "worse"
    return rows


def table(rows: Sequence[dict]) -> str:
    """One line per variant."""
    lines = [
        f"{'variant':17}{'rate':>8}{'PSNR dB':>16}{'SSIM':>16}{'to first':>10}  {'verdict':12}{'paper PSNR, SSIM':>18}"
    ]
    for row in rows:
        scores = [
            f"{row[metric]:.{digits}f}"
            + ("" if row[f"{metric}_std"] is None else f" ± {row[f'{metric}_std']:.{digits}f}")
            for metric, digits in (("psnr", 2), ("ssim", 3))
        ]
        difference = f"{row['difference']:+.2f}" if "difference" in row else ""
        lines.append(
            f"{row['variant']:17}{row['rate']:7.3f}%{scores[0]:>16}{scores[1]:>16}{difference:>10}  "
            f"{row.get('verdict', ''):12}{row['paper'][0]:10.2f}, {row['paper'][1]:.3f}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = configs.make_parser(AblationConfig, __doc__)
    config = configs.build(AblationConfig, parser.parse_args(configs.normalized(argv)))
    runs = {name: [train(config, name, seed) for seed in range(config.seeds)] for name in config.names}
    rows = summarize(runs)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = {"preset": config.preset, "max_steps": config.max_steps, **environment(device), "rows": rows, "runs": runs}
    with atomic_path(config.output_dir / "ablations.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{table(rows)}\n\nwritten to {config.output_dir / 'ablations.json'}")


if __name__ == "__main__":
    main()
