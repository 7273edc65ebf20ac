"""The work of `python -m benchmarks.choices`."""

import time
from collections.abc import Sequence

from autoencoder.common import commands
from autoencoder.common.device import resolve_device
from benchmarks.choices import CHOICES, ChoicesConfig
from benchmarks.comparison import (
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

LOSSES = ["val/loss", "val/loss_structure", "val/loss_dynamics"]


def flags(config: ChoicesConfig, name: str, seed: int) -> list[str]:
    """Arguments of `generator.train` for one run."""
    arguments = ["--config", config.preset, "--dataset", "shapes", "--max-videos", str(config.max_videos)]
    arguments += ["--autoencoder", str(config.autoencoder), "--latent-cache", str(config.output_dir / "latents")]
    for flag in ("--max-steps", "--validate-every", "--checkpoint-every", "--sample-every"):
        arguments += [flag, str(config.max_steps)]
    return [*arguments, *CHOICES[name], "--seed", str(seed)]


def run(config: ChoicesConfig, name: str, seed: int) -> dict[str, float]:
    """Train once; returns seconds, held-out losses, and the shares of samples that the oracle confirms."""
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


def execute(config: ChoicesConfig) -> None:
    """Train all variants, print the table and write it."""
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
