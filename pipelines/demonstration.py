"""The work of `python -m pipelines.demo`."""

import json
import shutil
import time
from collections.abc import Sequence

import torch

from autoencoder import AutoencoderVidTwin
from autoencoder.codec import decode_clips, decode_float_clips, encode_clips
from autoencoder.common.commands import start_command
from autoencoder.common.cost import count_flops, format_flops, training_flops
from autoencoder.common.files import atomic_path
from autoencoder.common.pictures import save_png, sheet, to_uint8, unit_to_uint8
from autoencoder.common.plots import pyplot, read_scalars, save_figure
from autoencoder.common.summary import summary as aligned
from autoencoder.data import Shapes, to_video
from autoencoder.data.shapes import CLASS_NAMES
from autoencoder.data.video_io import write_video
from autoencoder.metrics import VideoPSNR, VideoSSIM
from autoencoder.metrics.oracle import confirmed, oracle
from generator import VidTwinDiT
from generator.trainer import flops_of_sample
from pipelines.checkpoint import load_pipeline
from pipelines.demo import DemoConfig
from pipelines.evaluation.shares import spread
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline
from pipelines.recombination import recombination_table, recombine
from pipelines.stages import read_presets

FPS = 8.0
BATCH = 10
VIEWS = ("both", "structure", "dynamics", "mean frame")


def run(module: str, *flags: str) -> float:
    """Run a command of the project in its own process; returns its seconds."""
    start = time.perf_counter()
    start_command(module, flags)
    return time.perf_counter() - start


def expected_cost() -> str:
    """What the presets of both trainings compute, as lines to print before they start."""
    first, settings = read_presets("autoencoder", "tiny")
    second, transformer_settings = read_presets("generator", "shapes")
    with torch.device("meta"):
        vae = AutoencoderVidTwin(**settings)
        transformer = VidTwinDiT(
            structure_shape=vae.structure_shape,
            dynamics_shape=vae.dynamics_shape,
            dynamics_axes=vae.dynamics_axes,
            num_classes=len(CLASS_NAMES),
            independent_times=second.objective.independent_times,
            **transformer_settings,
        )
    clip = torch.empty(1, *vae.video_shape, device="meta")
    flops = [first.max_steps * first.batch_size * training_flops(vae, clip)]
    flops.append(second.max_steps * second.batch_size * flops_of_sample(transformer))
    names = (f"autoencoder, {first.max_steps} steps", f"transformer, {second.max_steps} steps", "both trainings")
    counts = map(format_flops, [*flops, sum(flops)])
    return aligned(dict(zip(names, counts, strict=True)))


def train(config: DemoConfig) -> dict[str, float]:
    """Train both stages; returns the seconds of each command by name."""
    first, second = config.output_dir / "autoencoder", config.output_dir / "generator"
    short = ["--max-steps", "20", "--log-every", "2"] if config.quick else []
    seconds = {"autoencoder": run("autoencoder.train", "--output-dir", str(first), *short)}
    common = ["--dataset", "shapes", "--autoencoder", str(first / "model")]
    latents = str(config.output_dir / "latents")
    few = ["--max-videos", "200"] if config.quick else []
    seconds["latent cache"] = run("generator.cache_latents", *common, "--output-dir", latents, *few)
    more = [*short, *few, "--sample-steps", "4"] if config.quick else []
    output = ["--latent-cache", latents, "--output-dir", str(second)]
    seconds["transformer"] = run("generator.train", *common, *output, *more)
    return seconds


def reconstruct(vae: AutoencoderVidTwin, clips: torch.Tensor) -> dict[str, torch.Tensor]:
    """Decode clips from both latents and from one alone, and freeze them to their mean frame.

    Args:
        vae: the autoencoder.
        clips: uint8 (B, T, H, W, 3).

    Returns:
        Float (B, 3, T, H, W) in [-1, 1] for each of `VIEWS`.
    """
    video = to_video(clips)
    latents = encode_clips(vae, clips)
    views = {part: decode_float_clips(vae, latents, part).cpu() for part in VIEWS[:3]}
    return views | {"mean frame": video.mean(dim=2, keepdim=True).expand_as(video)}


def measure_reconstruction(vae: AutoencoderVidTwin, clips: Sequence[torch.Tensor]) -> dict[str, dict[str, float]]:
    """PSNR in dB and SSIM of every view of clips uint8 (T, H, W, 3)."""
    metrics = {view: (VideoPSNR(), VideoSSIM()) for view in VIEWS}
    for start in range(0, len(clips), BATCH):
        batch = torch.stack(list(clips[start : start + BATCH]))
        target = (to_video(batch) + 1) / 2
        for view, video in reconstruct(vae, batch).items():
            for metric in metrics[view]:
                metric.update((video + 1) / 2, target)
    return {
        view: {"psnr": psnr.compute().item(), "ssim": ssim.compute().item()} for view, (psnr, ssim) in metrics.items()
    }


def sample(pipe: VidTwinDiffusionPipeline, config: DemoConfig) -> tuple[torch.Tensor, list[str]]:
    """Sample every class; returns uint8 (N, T, H, W, 3), with the seeds 0 to N - 1, and the class names."""
    count = config.videos_per_class
    names = [pipe.transformer.config.id2label[str(label)] for label in range(pipe.transformer.config.num_classes)]
    videos = []
    for label, name in enumerate(names):
        print(f"sampling {count} of {name}", flush=True)
        out = pipe(label, config.num_inference_steps, config.guidance_scale, count, generator=label * count)
        videos.append(unit_to_uint8(out.frames))
    return torch.cat(videos), [name for name in names for _ in range(count)]


def write_pictures(
    config: DemoConfig,
    vae: AutoencoderVidTwin,
    held_out: Shapes,
    samples: torch.Tensor,
    class_names: Sequence[str],
    more_rows: Sequence[tuple[str, list[torch.Tensor]]],
) -> None:
    """Write a video per class, and sheet.png."""
    count = config.videos_per_class
    for index in range(0, len(samples), count):
        write_video(config.output_dir / f"{class_names[index]}.mp4", samples[index].numpy(), FPS)
    clips = torch.stack([held_out.clip(index) for index in range(0, 10, 2)])
    views = {view: to_uint8(video) for view, video in reconstruct(vae, clips).items() if view != "mean frame"}
    rows = [("real, held out: one clip of every shape", list(clips))]
    rows += [(f"reconstructed: {view}" + (" only" if view != "both" else ""), list(v)) for view, v in views.items()]
    rows += [
        (f"sampled: {class_names[index]}, seeds {index} and {index + 1}", list(samples[index : index + min(2, count)]))
        for index in range(0, len(samples), count)
    ]
    save_png(sheet([*rows, *more_rows]), config.output_dir / "sheet.png")


def write_curves(config: DemoConfig) -> None:
    """Draw the training curves of both stages as curves.png."""
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4), layout="constrained")
    wanted = [("autoencoder", ["train/l1"]), ("autoencoder", ["val/psnr"])]
    wanted.append(("generator", ["train/loss_structure", "train/loss_dynamics"]))
    for axis, (stage, tags) in zip(axes, wanted, strict=True):
        for tag, points in read_scalars(config.output_dir / stage, *tags).items():
            axis.plot([point.step for point in points], [point.value for point in points], label=tag)
        axis.set(title=stage, xlabel="optimiser step")
        axis.legend()
    save_figure(figure, config.output_dir / "curves.png")


def table(summary: dict) -> str:
    """The summary as lines."""
    lines = ["", f"{'held-out shapes':28}{'PSNR dB':>9}{'SSIM':>8}"]
    lines += [f"{view:28}{v['psnr']:9.2f}{v['ssim']:8.3f}" for view, v in summary["reconstruction"].items()]
    lines += ["", f"{'confirmed by the oracle':28}{'shape':>9}{'motion':>8}{'both':>8}"]
    lines += [f"{kind:28}{v['shape']:9.0%}{v['motion']:8.0%}{v['both']:8.0%}" for kind, v in summary["oracle"].items()]
    lines += ["", f"{'spread within a class':28}{'colour':>9}{'place':>8}"]
    lines += [f"{kind:28}{v['colour']:9.3f}{v['place']:8.3f}" for kind, v in summary["spread"].items()]
    lines += ["", recombination_table(summary["recombination"])]
    lines += ["", *(f"{name:28}{value}" for name, value in summary["cost"].items())]
    lines += ["", *(f"{'seconds: ' + name:28}{value:.0f}" for name, value in summary["seconds"].items())]
    lines += ["", *(f"{'reached' if met else 'NOT reached':12}{goal}" for goal, met in summary["goals"].items())]
    return "\n".join(lines)


def goals(summary: dict) -> dict[str, bool]:
    """The goals of the demo, and whether it reached them."""
    psnr = {view: values["psnr"] for view, values in summary["reconstruction"].items()}
    return {
        "PSNR of at least 24 dB": psnr["both"] >= 24,
        "at least 3 dB above the mean frame": psnr["both"] >= psnr["mean frame"] + 3,
        "leaving out either latent costs at least 2 dB": psnr["both"] >= max(psnr["structure"], psnr["dynamics"]) + 2,
        "at least 90 % of the samples confirmed": summary["oracle"]["samples"]["both"] >= 0.9,
        "rate of at most 6 %": summary["rate"] <= 0.06,
    }


def summarize(
    config: DemoConfig,
    pipe: VidTwinDiffusionPipeline,
    held_out: Shapes,
    samples: torch.Tensor,
    class_names: Sequence[str],
) -> dict:
    """The content of summary.json, except for seconds, goals and recombination."""
    clips = [held_out.clip(index) for index in range(config.num_held_out)]
    real_names = [held_out.class_names[held_out.label(index)] for index in range(len(clips))]
    rebuilt = decode_clips(pipe.vae, encode_clips(pipe.vae, torch.stack(clips)))
    seen = {
        "real clips": ([oracle(clip) for clip in clips], real_names),
        "reconstructions": ([oracle(clip) for clip in rebuilt], real_names),
        "samples": ([oracle(video) for video in samples], class_names),
    }
    cost = pipe(0, config.num_inference_steps, config.guidance_scale, generator=0).cost
    vae_flops = count_flops(pipe.vae, torch.empty(1, *pipe.vae.video_shape, device="meta"))
    parameters = {name: sum(p.numel() for p in getattr(pipe, name).parameters()) for name in ("vae", "transformer")}
    return {
        "reconstruction": measure_reconstruction(pipe.vae, clips),
        "oracle": {kind: confirmed(*pair) for kind, pair in seen.items()},
        "spread": {kind: spread(*pair) for kind, pair in seen.items()},
        "rate": pipe.vae.compression_rate,
        "cost": {
            "rate of the autoencoder": f"{pipe.vae.compression_rate:.2%}",
            "parameters": f"{parameters['vae']:,} autoencoder, {parameters['transformer']:,} transformer",
            "autoencoder, one clip": format_flops(vae_flops),
            "sampling one video": str(cost.sampling),
            "decoding one video": str(cost.decoding),
        },
    }


def execute(config: DemoConfig) -> None:
    """Train both stages, sample, measure, and write the results."""
    for part in ("autoencoder", "latents", "generator"):
        shutil.rmtree(config.output_dir / part, ignore_errors=True)
    if not config.quick:
        print(expected_cost(), flush=True)
    seconds = train(config)

    start = time.perf_counter()
    pipe = load_pipeline(config.output_dir / "generator" / "pipeline", config.device)
    pipe.set_progress_bar_config(disable=True)
    samples, class_names = sample(pipe, config)
    seconds["samples"] = time.perf_counter() - start
    start = time.perf_counter()
    held_out = Shapes(pipe.vae.config.num_frames, pipe.vae.config.sample_size, "val")
    recombination, more_rows = recombine(
        pipe, held_out, config.num_recombined, config.num_inference_steps, config.guidance_scale
    )
    write_pictures(config, pipe.vae, held_out, samples, class_names, more_rows)
    write_curves(config)
    summary = summarize(config, pipe, held_out, samples, class_names) | {"recombination": recombination}
    seconds["measuring"] = time.perf_counter() - start
    summary["seconds"] = seconds | {"in all": sum(seconds.values())}
    summary["goals"] = {} if config.quick else goals(summary)
    with atomic_path(config.output_dir / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2, default=float))
    text = table(summary)
    with atomic_path(config.output_dir / "summary.txt") as temporary:
        temporary.write_text(text.lstrip() + "\n")
    print(
        f"{text}\n\nvideos, sheet.png, curves.png and summary.json are in {config.output_dir}, the pipeline in "
        f"{config.output_dir / 'generator' / 'pipeline'}"
    )
