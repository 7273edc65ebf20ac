"""The work of `python -m benchmarks.ablations`."""

from collections.abc import Sequence

import torch

from autoencoder import AutoencoderVidTwin
from autoencoder.common.device import resolve_device
from benchmarks.ablations import FULL, ONE_LATENT, PAPER, AblationConfig
from benchmarks.comparison import (
    last_scalars,
    summarize,
    train,
    with_spread,
    write_report,
)
from benchmarks.report import environment
from benchmarks.suite import preset_model


def channels_of_one_latent(full: AutoencoderVidTwin) -> int:
    """The fewest channels with which a structure latent alone has at least as many numbers as both latents."""
    channels, *grid = full.structure_shape
    return -(-full.num_latent_scalars // torch.Size(grid).numel())


def flags(config: AblationConfig, name: str, seed: int) -> list[str]:
    """Arguments of `autoencoder.train` for one run."""
    arguments = ["--config", config.preset]
    if name != FULL:
        arguments += ["--config", name]
    if name == ONE_LATENT:
        with torch.device("meta"):
            full = AutoencoderVidTwin(**preset_model("autoencoder", config.preset))
        arguments += ["--model.structure-channels", str(channels_of_one_latent(full))]
    if config.dataset:
        arguments += ["--dataset", config.dataset]
    if config.data_root:
        arguments += ["--data-root", config.data_root]
    for flag in ("--max-steps", "--validate-every", "--checkpoint-every"):
        arguments += [flag, str(config.max_steps)]
    return [*arguments, "--seed", str(seed)]


def run(config: AblationConfig, name: str, seed: int) -> dict[str, float]:
    """Train once; returns the compression rate in percent and the last validation."""
    folder = config.output_dir / f"{name}-{seed}"
    train("autoencoder.train", flags(config, name, seed), folder)
    rate = AutoencoderVidTwin.from_pretrained(folder / "model").compression_rate
    return {"rate": 100 * rate, **last_scalars(folder, ["val/psnr", "val/ssim"])}


def table(rows: Sequence[dict]) -> str:
    """One line per variant."""
    lines = [
        f"{'variant':17}{'rate':>8}{'PSNR dB':>16}{'SSIM':>16}{'to first':>10}  {'verdict':12}{'paper PSNR, SSIM':>18}"
    ]
    for row in rows:
        psnr, ssim = PAPER[row["variant"]]
        difference = f"{row['difference']:+.2f}" if "difference" in row else ""
        lines.append(
            f"{row['variant']:17}{row['rate']:7.3f}%{with_spread(row, 'psnr', 2):>16}{with_spread(row, 'ssim', 3):>16}"
            f"{difference:>10}  {row.get('verdict', ''):12}{psnr:10.2f}, {ssim:.3f}"
        )
    return "\n".join(lines)


def execute(config: AblationConfig) -> None:
    """Train all variants, print the table and write it."""
    runs = {name: [run(config, name, seed) for seed in range(config.seeds)] for name in config.names}
    rows = summarize(runs, decisive="psnr")
    device = resolve_device("auto")
    settings = {"preset": config.preset, "max_steps": config.max_steps, **environment(device)}
    write_report(config.output_dir / "ablations.json", settings, rows, runs)
    print(f"\n{table(rows)}\n\nwritten to {config.output_dir / 'ablations.json'}")
