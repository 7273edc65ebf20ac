"""The work of `python -m benchmarks.choices`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from autoencoder import AutoencoderVidTwin
from autoencoder.checkpoint import fingerprint
from autoencoder.common import commands
from autoencoder.common.device import resolve_device
from autoencoder.common.files import atomic_path
from autoencoder.common.plots import read_scalars
from benchmarks.choices import CHOICES, ChoicesConfig
from benchmarks.comparison import (
    Runs,
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
RESULT = "result.json"  # in a run's folder: how it was made, and its scores


def flags(config: ChoicesConfig, name: str, seed: int) -> list[str]:
    """Arguments of `generator.train` for one run."""
    arguments = ["--config", config.preset, "--dataset", "shapes", "--max-videos", str(config.max_videos)]
    arguments += ["--autoencoder", str(config.autoencoder), "--latent-cache", str(config.output_dir / "latents")]
    for flag in ("--max-steps", "--validate-every", "--checkpoint-every", "--sample-every"):
        arguments += [flag, str(config.max_steps)]
    chosen = [flag for part in name.split("+") for flag in CHOICES[part]]
    return [*arguments, *chosen, "--seed", str(seed)]


def run(config: ChoicesConfig, name: str, seed: int, made_with: Mapping[str, Any]) -> dict[str, float]:
    """Train once, unless the run is there.

    Args:
        config: the command's config.
        name: the variant.
        seed: seed of the training.
        made_with: what a run that is taken over must have in common with this one, beside its flags.

    Returns:
        The seconds of all training steps, held-out losses, and the shares of samples that the oracle confirms.
    """
    folder, arguments = config.output_dir / f"{name}-{seed}", flags(config, name, seed)
    made_with = {**made_with, "flags": arguments}
    if (scores := _finished(folder, made_with)) is not None:
        print(f"{folder} is there")
        return scores
    train("generator.train", arguments, folder)
    pipe = load_pipeline(folder / "pipeline")
    shares = oracle_share(pipe, config.videos_per_class, config.num_inference_steps, config.guidance_scale)
    scores = {"seconds": config.max_steps * seconds_of_step(folder), **last_scalars(folder, LOSSES), **shares}
    with atomic_path(folder / RESULT) as temporary:
        temporary.write_text(json.dumps({"made_with": made_with, "scores": scores}, indent=2) + "\n")
    return scores


def _finished(folder: Path, made_with: Mapping[str, Any]) -> dict[str, float] | None:
    """The scores of a run that was made with these settings; None if there is none."""
    if not (folder / RESULT).is_file():
        return None
    result = json.loads((folder / RESULT).read_text())
    return result["scores"] if result["made_with"] == made_with else None


def seconds_of_step(folder: Path) -> float:
    """Seconds of a training step: the median over the run's records, so that neither start nor previews count."""
    tags = "throughput/flops_per_step", "throughput/flops_per_second"
    records = zip(*read_scalars(folder, *tags).values(), strict=True)
    return median(flops.value / rate.value for flops, rate in records)


def table(rows: Sequence[dict], runs: Runs) -> str:
    """One line per variant; losses of different targets cannot be compared."""
    width = max(len(row["variant"]) for row in rows) + 2
    lines = [
        f"{'variant':{width}}{'held-out loss':>16}{'shape %':>14}{'motion %':>14}{'both %':>14}{'to first':>10}  "
        f"{'verdict':8}{'seconds':>9}{'ratio':>7}  both % of each seed"
    ]
    for row in rows:
        shares = "".join(f"{with_spread(row, name, 1, 100):>14}" for name in ("shape", "motion", "both"))
        difference = f"{100 * row['difference']:+.1f}" if "difference" in row else ""
        lines.append(
            f"{row['variant']:{width}}{with_spread(row, 'loss', 4):>16}{shares}{difference:>10}  "
            f"{row.get('verdict', ''):8}{row['seconds']:9.0f}{row['seconds'] / rows[0]['seconds']:7.2f}  "
            + " ".join(f"{100 * scores['both']:.1f}" for scores in runs[row["variant"]])
        )
    return "\n".join(lines)


def execute(config: ChoicesConfig) -> None:
    """Train all variants, print the table and write it."""
    config.autoencoder = str(autoencoder_folder(config.autoencoder))
    # Encoded beforehand, so that no run pays for it.
    latents = ["--config", config.preset, "--dataset", "shapes", "--max-videos", str(config.max_videos)]
    latents += ["--autoencoder", config.autoencoder, "--output-dir", str(config.output_dir / "latents")]
    commands.start_command("generator.cache_latents", latents)
    machine = environment(resolve_device("auto"))
    made_with = {name: getattr(config, name) for name in ("videos_per_class", "num_inference_steps", "guidance_scale")}
    made_with |= {"autoencoder": fingerprint(AutoencoderVidTwin.from_pretrained(config.autoencoder))}
    made_with |= {name: machine[name] for name in ("device", "cpu", "torch")}
    runs = {name: [run(config, name, seed, made_with) for seed in range(config.seeds)] for name in config.names}
    rows = summarize(runs, decisive="both")
    settings = {"preset": config.preset, "max_steps": config.max_steps, "flags": CHOICES, **machine}
    write_report(config.output_dir / "choices.json", settings, rows, runs)
    print(f"\n{table(rows, runs)}\n\nwritten to {config.output_dir / 'choices.json'}")
