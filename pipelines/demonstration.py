"""The work of `python -m pipelines.demo`."""

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from autoencoder import AutoencoderVidTwin
from autoencoder.codec import decode_float_clips, encode_clips
from autoencoder.common.commands import start_command
from autoencoder.common.cost import count_flops, format_flops
from autoencoder.common.files import atomic_path
from autoencoder.common.plots import pyplot, read_scalars, save_figure
from autoencoder.common.summary import summary as aligned
from autoencoder.data import to_video
from autoencoder.data.shapes import CLASS_NAMES
from autoencoder.metrics import VideoPSNR, VideoSSIM
from autoencoder.metrics.oracle import oracle
from autoencoder.training.module import flops_of_clip
from autoencoder.training.start import start_from
from generator import VidTwinDiT
from generator.trainer import flops_of_sample
from pipelines.checkpoint import load_pipeline
from pipelines.demo import DemoConfig
from pipelines.evaluation.shares import spread
from pipelines.folders import model_folder, pipeline_folder
from pipelines.goal_table import NOT_MEASURED, NOTES, goal_table
from pipelines.goals import Findings, GoalSettings, JudgedClips, measure_goals
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline
from pipelines.showcase import Showcase, write_showcase
from pipelines.stages import read_presets

# The model of the shipped pipeline, trained on clips of two frames and used for long ones without further training.
SHORT_CLIPS, LONG_CLIPS, GENERATOR = "shapes_quick", "shapes_long", "shapes_long"
GENERATOR_STEPS, CLIPS = 1000, 2500  # of the preset's 5000 and 10,000
LENGTHENED = "autoencoder_of_long_clips"
SHIPPED, TRAINED = "shipped", "from scratch"  # columns of the table
BATCH = 10
VIEWS = ("both", "structure", "dynamics", "mean frame")


class Stopwatch:
    """Seconds of the parts of the demo, by name.

    Args:
        started: when the first part began, by `time.perf_counter`.
    """

    def __init__(self, started: float):
        self.seconds: dict[str, float] = {}
        self._last = started

    def lap(self, name: str) -> float:
        """End a part, which began at the end of the one before it; returns its seconds."""
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now
        return self.seconds[name]


def expected_cost() -> str:
    """What both trainings compute, as lines to print before they start."""
    first, short = read_presets("autoencoder", SHORT_CLIPS)
    second, transformer_settings = read_presets("generator", GENERATOR)
    with torch.device("meta"):
        vae = AutoencoderVidTwin(**read_presets("autoencoder", LONG_CLIPS)[1])
        transformer = VidTwinDiT(
            structure_shape=vae.structure_shape,
            dynamics_shape=vae.dynamics_shape,
            dynamics_axes=vae.dynamics_axes,
            num_classes=len(CLASS_NAMES),
            independent_times=second.objective.independent_times,
            **transformer_settings,
        )
        flops = [first.max_steps * first.batch_size * flops_of_clip(AutoencoderVidTwin(**short), first)]
    flops.append(GENERATOR_STEPS * second.batch_size * flops_of_sample(transformer, second))
    names = (f"autoencoder, {first.max_steps} steps", f"transformer, {GENERATOR_STEPS} steps", "both trainings")
    counts = map(format_flops, [*flops, sum(flops)])
    return aligned(dict(zip(names, counts, strict=True)))


def lengthen(run: Path, folder: Path) -> Path:
    """Save the autoencoder of a run on short clips as one of long clips; returns its folder."""
    vae = AutoencoderVidTwin(**read_presets("autoencoder", LONG_CLIPS)[1])
    start_from(vae, model_folder(run, "vae"))
    vae.save_pretrained(folder)
    return folder


def train(config: DemoConfig, watch: Stopwatch) -> Path:
    """Train both stages by their commands; returns the pipeline's folder."""
    first, second = config.output_dir / "autoencoder", config.output_dir / "generator"
    latents = str(config.output_dir / "latents")
    short = ["--max-steps", "20", "--log-every", "2"] if config.quick else []
    few = ["--max-videos", "200" if config.quick else str(CLIPS)]
    start_command("autoencoder.train", ["--config", SHORT_CLIPS, "--output-dir", str(first), *short])
    autoencoder = lengthen(first, config.output_dir / LENGTHENED)
    watch.lap("training the autoencoder")
    common = ["--dataset", "shapes", "--config", GENERATOR, "--autoencoder", str(autoencoder), *few]
    start_command("generator.cache_latents", [*common, "--output-dir", latents])
    watch.lap("encoding latents")
    more = [*short, "--sample-steps", "4"] if config.quick else ["--max-steps", str(GENERATOR_STEPS)]
    start_command("generator.train", [*common, "--latent-cache", latents, "--output-dir", str(second), *more])
    watch.lap("training the transformer")
    return second / "pipeline"


def show(pipe: VidTwinDiffusionPipeline, config: DemoConfig, name: str) -> None:
    """Write what a pipeline can do as pictures, into a folder of their own."""
    sections = Showcase(pipe, config.num_inference_steps, config.guidance_scale).sections()
    paths = write_showcase(sections, config.output_dir / name.replace(" ", "_"))
    print("\n".join(["", f"{name}: wrote", *(f"  {path}" for path in paths)]), flush=True)


def measure(pipe: VidTwinDiffusionPipeline, config: DemoConfig) -> Findings:
    """Measure how far a pipeline reaches the goals."""
    how = {"num_inference_steps": config.num_inference_steps, "guidance_scale": config.guidance_scale}
    return measure_goals(pipe, GoalSettings(**how, **config.counts))


def load(folder: Path, device: str) -> VidTwinDiffusionPipeline:
    """Load a pipeline that samples without progress bars."""
    pipe = load_pipeline(folder, device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


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


def measure_reconstruction(vae: AutoencoderVidTwin, clips: torch.Tensor) -> dict[str, dict[str, float]]:
    """PSNR in dB and SSIM of every view of clips uint8 (N, T, H, W, 3)."""
    metrics = {view: (VideoPSNR(), VideoSSIM()) for view in VIEWS}
    for batch in clips.split(BATCH):
        target = (to_video(batch) + 1) / 2
        for view, video in reconstruct(vae, batch).items():
            for metric in metrics[view]:
                metric.update((video + 1) / 2, target)
    return {
        view: {"psnr": psnr.compute().item(), "ssim": ssim.compute().item()} for view, (psnr, ssim) in metrics.items()
    }


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


def about_training(config: DemoConfig, pipe: VidTwinDiffusionPipeline, found: Findings) -> dict[str, Any]:
    """What summary.json holds about the pipeline that was trained, beside the goals."""
    kinds = found.kinds
    judged = {
        "real clips": kinds["reconstructions"].real,
        "reconstructions": kinds["reconstructions"].decoded,
        "samples": kinds["samples"].decoded,
    }
    cost = pipe(0, config.num_inference_steps, config.guidance_scale, generator=0).cost
    vae_flops = count_flops(pipe.vae, torch.empty(1, *pipe.vae.video_shape, device="meta"))
    parameters = {name: sum(p.numel() for p in getattr(pipe, name).parameters()) for name in ("vae", "transformer")}
    return {
        "reconstruction": measure_reconstruction(pipe.vae, kinds["reconstructions"].real.clips),
        "spread": {name: _spread(clips) for name, clips in judged.items()},
        "rate": pipe.vae.compression_rate,
        "cost": {
            "rate of the autoencoder": f"{pipe.vae.compression_rate:.2%}",
            "parameters": f"{parameters['vae']:,} autoencoder, {parameters['transformer']:,} transformer",
            "autoencoder, one clip": format_flops(vae_flops),
            "sampling one video": str(cost.sampling),
            "decoding one video": str(cost.decoding),
        },
    }


def _spread(clips: JudgedClips) -> dict[str, float | None]:
    """As of `pipelines.evaluation.shares.spread`; None where no class shows two shapes."""
    found = spread([oracle(clip) for clip in clips.clips], clips.class_names)
    return {name: None if math.isnan(value) else value for name, value in found.items()}


def checks(trained: dict[str, Any]) -> dict[str, bool]:
    """What is asked of the trained autoencoder beside the goals, and whether it is so."""
    psnr = {view: values["psnr"] for view, values in trained["reconstruction"].items()}
    return {
        "at least 3 dB above the mean frame": psnr["both"] >= psnr["mean frame"] + 3,
        "leaving out either latent costs at least 2 dB": psnr["both"] >= max(psnr["structure"], psnr["dynamics"]) + 2,
        "rate of at most 6 %": trained["rate"] <= 0.06,
    }


def table(found: dict[str, Findings], trained: dict[str, Any] | None, seconds: dict[str, float]) -> str:
    """The summary as lines."""
    lines = [goal_table({name: [findings] for name, findings in found.items()}), "", NOTES]
    if trained is not None:
        lines += ["", f"{TRAINED:28}{'PSNR dB':>9}{'SSIM':>8}"]
        lines += [f"{view:28}{v['psnr']:9.2f}{v['ssim']:8.3f}" for view, v in trained["reconstruction"].items()]
        lines += ["", f"{'spread within a class':28}{'colour':>13}{'place':>13}"]
        for kind, values in trained["spread"].items():
            texts = [NOT_MEASURED if value is None else f"{value:.3f}" for value in values.values()]
            lines.append(f"{kind:28}{texts[0]:>13}{texts[1]:>13}")
        lines += ["", *(f"{name:28}{value}" for name, value in trained["cost"].items())]
        lines += ["", *(f"{'reached' if met else 'NOT reached':12}{text}" for text, met in trained["checks"].items())]
    width = max(map(len, seconds)) + len("seconds: ") + 2
    return "\n".join([*lines, "", *(f"{'seconds: ' + name:{width}}{value:.0f}" for name, value in seconds.items())])


def write_summary(config: DemoConfig, found: dict[str, Findings], trained: dict | None, watch: Stopwatch) -> None:
    """Print the tables, and write them as summary.txt and, with all figures, as summary.json."""
    seconds = watch.seconds | {"in all": sum(watch.seconds.values())}
    goals = {
        name: {part: value for part, value in vars(findings).items() if part != "kinds"}
        for name, findings in found.items()
    }
    with atomic_path(config.output_dir / "summary.json") as temporary:
        temporary.write_text(json.dumps({"goals": goals, TRAINED: trained, "seconds": seconds}, indent=2) + "\n")
    text = table(found, trained, seconds)
    with atomic_path(config.output_dir / "summary.txt") as temporary:
        temporary.write_text(text + "\n")
    print(f"\n{text}\n\nall of it is in {config.output_dir}")


def execute(config: DemoConfig, started: float) -> None:
    """Show and measure the first pipeline, then train another one and do the same.

    Args:
        config: the demo's config.
        started: when the command began, by `time.perf_counter`.
    """
    watch, found, trained = Stopwatch(started), {}, None
    for part in (SHIPPED, TRAINED.replace(" ", "_"), "autoencoder", LENGTHENED, "latents", "generator"):
        shutil.rmtree(config.output_dir / part, ignore_errors=True)
    if config.pipeline is not None:
        pipe = load(pipeline_folder(config.pipeline), config.device)
        show(pipe, config, SHIPPED)
        print(f"{watch.lap(f'{SHIPPED}: pictures'):.0f} seconds after the start", flush=True)
        found[SHIPPED] = measure(pipe, config)
        watch.lap(f"{SHIPPED}: measuring")
    if config.train:
        if not config.quick:
            print(f"\n{expected_cost()}", flush=True)
        pipe = load(train(config, watch), config.device)
        show(pipe, config, TRAINED)
        watch.lap(f"{TRAINED}: pictures")
        found[TRAINED] = measure(pipe, config)
        trained = about_training(config, pipe, found[TRAINED])
        trained["checks"] = checks(trained)
        write_curves(config)
        watch.lap(f"{TRAINED}: measuring")
    write_summary(config, found, trained, watch)
