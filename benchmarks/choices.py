"""The choices of stage two, trained for equal steps on moving shapes: `python -m benchmarks.choices`.

Every variant changes one value of the first one's config. It is trained with each of the seeds by `python -m
generator.train` on the same latents; what counts is the share of its samples whose class the oracle confirms.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.device import resolve_device
from benchmarks.comparison import (
    check_counts,
    chosen_variants,
    last_scalars,
    summarize,
    train,
    with_spread,
    write_report,
)
from benchmarks.report import environment
from generator.latent_cache import autoencoder_folder
from pipelines.checkpoint import load_pipeline
from pipelines.evaluation.shares import oracle_share

DEFAULT = "default"
# Flags of `generator.train` by variant.
CHOICES: dict[str, tuple[str, ...]] = {
    DEFAULT: (),
    "flow": ("--objective.kind", "flow"),
    "v_prediction": ("--objective.kind", "v_prediction"),
    "epsilon": ("--objective.kind", "epsilon"),
    "min_snr": ("--objective.min-snr-gamma", "5"),
    "shared_times": ("--objective.independent-times", "false"),
    "independent_times": ("--objective.independent-times", "true"),
    "cross_attention": ("--model.conditioning", "cross_attention"),
    "layer_norm": ("--model.norm", "layer_norm"),
    "gelu": ("--model.feed-forward", "gelu"),
    "no_qk_norm": ("--model.qk-norm", "none"),
    "sincos": ("--model.positions", "sincos"),
    "rotary": ("--model.positions", "rotary"),
}
LOSSES = ["val/loss", "val/loss_structure", "val/loss_dynamics"]


@dataclass
class ChoicesConfig:
    """The comparison."""

    autoencoder: str | None = None
    """Folder of the autoencoder; by default the one that `python -m autoencoder.train` left last."""
    preset: str = "shapes"
    """Preset, or YAML file, of the first variant."""
    max_steps: int = 600
    """Optimiser steps of every run."""
    max_videos: int = 10_000
    """Clips to train on."""
    seeds: int = 3
    """Runs of every variant, with the seeds 0, 1, 2, ..."""
    variants: str = ",".join(CHOICES)
    """Variants to train, separated by commas; the first is what the others are compared with."""
    videos_per_class: int = 20
    """Samples of every class and run."""
    num_inference_steps: int = 25
    """Scheduler steps of a sample."""
    guidance_scale: float = 2.0
    """Weight of classifier-free guidance."""
    output_dir: Path = Path("outputs/choices")
    """Folder of the runs, their latents and choices.json; the runs of an earlier comparison are replaced."""

    def __post_init__(self):
        counts = ("max_steps", "max_videos", "seeds", "videos_per_class", "num_inference_steps")
        check_counts(**{name: getattr(self, name) for name in counts})
        self.names = chosen_variants(self.variants, list(CHOICES))


def flags(config: ChoicesConfig, name: str, seed: int) -> list[str]:
    """Arguments of `generator.train` for one run."""
    arguments = ["--config", config.preset, "--dataset", "shapes", "--max-videos", str(config.max_videos)]
    arguments += ["--autoencoder", str(config.autoencoder), "--latent-cache", str(config.output_dir / "latents")]
    for flag in ("--max-steps", "--validate-every", "--checkpoint-every", "--sample-every"):
        arguments += [flag, str(config.max_steps)]
    return [*arguments, *CHOICES[name], "--seed", str(seed)]


def run(config: ChoicesConfig, name: str, seed: int) -> dict[str, float]:
    """One training; returns its seconds, its held-out losses and the oracle's shares of its samples."""
    folder = config.output_dir / f"{name}-{seed}"
    start = time.perf_counter()
    train("generator.train", flags(config, name, seed), folder)
    seconds = time.perf_counter() - start
    pipe = load_pipeline(folder / "pipeline")
    shares = oracle_share(pipe, config.videos_per_class, config.num_inference_steps, config.guidance_scale)
    return {"seconds": seconds, **last_scalars(folder, LOSSES), **shares}


def table(rows: Sequence[dict]) -> str:
    """One line per variant; losses of different targets cannot be compared."""
    lines = [
        f"{'variant':18}{'held-out loss':>16}{'shape %':>14}{'motion %':>14}{'both %':>14}{'to first':>10}  "
        f"{'verdict':8}{'seconds':>9}{'ratio':>7}"
    ]
    for row in rows:
        shares = "".join(f"{with_spread(row, name, 1, 100):>14}" for name in ("shape", "motion", "both"))
        difference = f"{100 * row['difference']:+.1f}" if "difference" in row else ""
        lines.append(
            f"{row['variant']:18}{with_spread(row, 'loss', 4):>16}{shares}{difference:>10}  {row.get('verdict', ''):8}"
            f"{row['seconds']:9.0f}{row['seconds'] / rows[0]['seconds']:7.2f}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = commands.make_parser(ChoicesConfig, __doc__, "benchmarks.choices")
    config = commands.build(ChoicesConfig, parser.read(argv))
    config.autoencoder = str(autoencoder_folder(config.autoencoder))
    # Encoded beforehand, so that no run pays for it.
    latents = ["--dataset", "shapes", "--autoencoder", config.autoencoder, "--max-videos", str(config.max_videos)]
    commands.start_command("generator.cache_latents", [*latents, "--output-dir", str(config.output_dir / "latents")])
    runs = {name: [run(config, name, seed) for seed in range(config.seeds)] for name in config.names}
    rows = summarize(runs, decisive="both")
    settings = {"preset": config.preset, "max_steps": config.max_steps, "flags": CHOICES}
    settings |= environment(resolve_device("auto"))
    write_report(config.output_dir / "choices.json", settings, rows, runs)
    print(f"\n{table(rows)}\n\nwritten to {config.output_dir / 'choices.json'}")


if __name__ == "__main__":
    commands.run_command(main)
