"""Evaluating an autoencoder on whole videos by a config, for `python -m autoencoder.evaluate`."""

import csv
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from autoencoder.checkpoint import fingerprint, load_autoencoder
from autoencoder.common.cost import count_flops, format_bytes, format_flops
from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.common.files import atomic_path
from autoencoder.common.pictures import save_png, sheet, to_uint8
from autoencoder.common.precision import set_tf32
from autoencoder.common.processes import process_group
from autoencoder.common.progress import progress_bar
from autoencoder.evaluate import EvaluateConfig
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics import FrechetVideoDistance, VideoLPIPS, VideoPSNR, VideoSSIM, lpips
from autoencoder.metrics.i3d import AUTO, NONE, choose_i3d
from autoencoder.metrics.i3d_network import SIDE
from autoencoder.metrics.installed_weights import INSTALL
from autoencoder.vidtwin import AutoencoderVidTwin
from autoencoder.whole_videos.listed_videos import ListedVideo, list_videos, made_shapes
from autoencoder.whole_videos.scores import (
    Evaluation,
    Protocol,
    VideoScore,
    best_median_worst,
    mean_metrics,
    reconstruction,
)

NOT_MEASURED = "not measured"
LIBRARIES = ("torch", "torchvision", "torchmetrics", "diffusers", "av")


def make_lpips(weights: str, size: int) -> tuple[VideoLPIPS | None, str | None]:
    """The LPIPS that a config asks for.

    Args:
        weights: path of torchvision's VGG-16; "download"; "auto" for the installed weights; "none".
        size: side of the frames.

    Returns:
        LPIPS and the identity of its weights; or None and, for "auto", why there is none.

    Raises:
        MissingFileError: if the weights cannot be found; of the installed ones, if their file is gone.
        UserError: if they cannot be read, or the installed file is another one.
    """
    if weights == NONE:
        return None, None
    if weights == AUTO:
        if size < lpips.MIN_SIDE:
            return None, f"LPIPS takes frames of at least {lpips.MIN_SIDE} pixels, the model has {size}"
        if not lpips.INSTALLED.is_installed:
            return None, f"the weights of VGG-16 are not installed: {INSTALL}, or --lpips download"
        return VideoLPIPS(lpips.installed_vgg16(), sync_on_compute=False), lpips.installed_identity()
    try:
        path = lpips.vgg16_file(None if weights == "download" else weights)
    except FileNotFoundError as error:
        raise MissingFileError(f"{error} (--lpips PATH), or leave LPIPS out by --lpips none") from error
    return VideoLPIPS(path, sync_on_compute=False), lpips.vgg16_identity(path)


def prepare(config: EvaluateConfig) -> tuple[Evaluation, dict[str, str | None]]:
    """A new evaluation, and notes: of "lpips" its weights, or why it is not measured, as of "distance".

    Raises:
        UserError: if weights that are asked for cannot be found or read, or the clips are too short for them.
    """
    model = load_autoencoder(config.checkpoint, config.device)
    size = {"num_frames": model.config.num_frames, "size": model.config.sample_size}
    notes = {}
    i3d, notes["distance"] = choose_i3d(config.i3d, config.allow_unknown_i3d, size["num_frames"])
    # Process 0 puts the shares of all together, in the order of the list.
    distance = None if i3d is None else FrechetVideoDistance(i3d, sync_on_compute=False).to(model.device)
    metrics = {"psnr": VideoPSNR(sync_on_compute=False), "ssim": VideoSSIM(sync_on_compute=False)}
    metrics["lpips"], notes["lpips"] = make_lpips(config.lpips, size["size"])
    metrics = {name: metric.to(model.device) for name, metric in metrics.items() if metric is not None}
    protocol = Protocol(config.sample_fps, part=config.part, batch_size=config.batch_size, **size)
    if model.device.type == "cuda":  # without TF32 all machines agree; the first clips on a GPU are slower
        set_tf32(False)
        reconstruction(model, torch.zeros(config.batch_size, *model.video_shape, device=model.device))
    interpolates = config.interpolate and (distance is not None or config.takes_shapes)
    return Evaluation(model, protocol, metrics, distance, config.takes_shapes, interpolates), notes


def describe_protocol(
    config: EvaluateConfig, evaluation: Evaluation, notes: dict[str, str | None], world_size: int
) -> dict[str, Any]:
    """Everything that the numbers depend on, for the report."""
    model = evaluation.model
    on_cuda = model.device.type == "cuda"
    return {
        "checkpoint": str(config.checkpoint),
        "checkpoint_sha256": fingerprint(model),
        "videos": str(config.videos),
        **asdict(evaluation.protocol),
        "sampling": "stride: every round(fps / sample_fps)-th frame, from the first",
        "clips": "consecutive, over the whole video",
        "tail": "filled by repeating the last frame; repeats are scored",
        "resize": "short side, bilinear, antialiased, on floats; then centre crop",
        "latents": "posterior means",
        "reconstruction": "clamped to [-1, 1], not rounded to whole levels",
        "aggregation": "plain mean over all frames",
        "psnr": "per frame, -10 log10(MSE + 1e-8)",
        "ssim": "per frame, 11 x 11 Gaussian window of sigma 1.5, inside the frame, mean over RGB",
        "lpips": "per frame, VGG-16" if "lpips" in evaluation.metrics else NOT_MEASURED,
        "lpips_weights": notes["lpips"] if "lpips" in evaluation.metrics else NOT_MEASURED,
        "distance": describe_distance(evaluation.distance),
        "interpolation": "halfway between the means of two clips: each and the next of its video (moments), each and "
        "the nearest of another video (clips); from all clips",
        "dtype": str(model.dtype).removeprefix("torch."),
        "tf32": False,
        "device": torch.cuda.get_device_name(model.device) if on_cuda else "CPU",
        "processes": world_size,
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in LIBRARIES},
    }


def describe_distance(distance: FrechetVideoDistance | None) -> dict[str, Any] | str:
    """Everything that the distance between the sets depends on, for the report."""
    if distance is None:
        return NOT_MEASURED
    return {
        "extractor": distance.identity,
        "clips": "all that the other metrics see, filled tails included",
        "quantise": "both sides rounded to 256 levels",
        "resize": f"bilinear, half-pixel centres, not antialiased, to {SIDE}",
        "ddof": int(distance.unbiased),
    }


def name_of_distance(distance: FrechetVideoDistance | None) -> str:
    """The name of the distance: rFVD and the I3D, unless its weights are unknown."""
    if distance is None:
        return "rFVD"
    return f"r{distance.title}" if distance.title.startswith(distance.short_name) else distance.title


def cost_of_clip(model: AutoencoderVidTwin, part: str) -> tuple[float, dict[str, int]]:
    """Compression rate of the latents that `part` decodes from, and FLOPs of encoding and of decoding a clip."""
    shapes = {"structure": model.structure_shape, "dynamics": model.dynamics_shape}
    used = sum(math.prod(shape) for name, shape in shapes.items() if part in ("both", name))
    latents = VidTwinLatents(**{name: torch.empty(1, *shape) for name, shape in shapes.items()})
    flops = {
        "encode": count_flops(model.encode, torch.empty(1, *model.video_shape)),
        "decode": count_flops(model.decode, latents, part=part),
    }
    return used / math.prod(model.video_shape), flops


def why_not_measured(evaluation: Evaluation, notes: dict[str, str | None], distance: float | None) -> dict[str, str]:
    """Reasons by "lpips" and "distance"; what was left out on request has none."""
    reasons = {}
    if "lpips" not in evaluation.metrics:
        reasons["lpips"] = notes["lpips"]
    if distance is None:
        reasons["distance"] = notes["distance"] if evaluation.distance is None else "it takes at least 2 clips"
    return {name: reason for name, reason in reasons.items() if reason}


def make_report(
    evaluation: Evaluation, videos: Sequence[ListedVideo], protocol: dict[str, Any], notes: dict[str, str | None]
) -> dict[str, Any]:
    """The content of evaluation.json.

    Raises:
        UserError: if no video could be read.
    """
    scores, work = evaluation.scores, evaluation.work
    if not scores:
        raise UserError(
            f"none of the {len(videos)} videos at {protocol['videos']} can be read: {evaluation.unreadable[0][1]}"
        )
    compression_rate, flops = cost_of_clip(evaluation.model, evaluation.protocol.part)
    distance = evaluation.distance_of_sets()
    return {
        "metrics": {"psnr": None, "ssim": None, "lpips": None} | mean_metrics(scores),
        "distance": {"name": name_of_distance(evaluation.distance), "value": distance},
        "interpolated": {kind: asdict(found) for kind, found in evaluation.interpolations().items()},
        "not_measured": why_not_measured(evaluation, notes, distance),
        "videos": len(scores),
        "clips": sum(len(score.clip_psnr) for score in scores),
        "frames": sum(score.frames for score in scores),
        "unreadable": [{"video": videos[index].name, "reason": reason} for index, reason in evaluation.unreadable],
        "compression_rate": compression_rate,
        "flops_per_clip": flops,
        "peak_memory_bytes": work.peak_memory_bytes,
        "frames_per_second": work.frames / work.seconds,
        "protocol": protocol,
    }


def _missing(value: float | None, reason: str | None) -> str | None:
    """What stands in the place of a value that was not measured; None where it was."""
    if value is not None:
        return None
    return f"{NOT_MEASURED}: {reason}" if reason else NOT_MEASURED


def table(report: dict[str, Any]) -> str:
    """The report as lines to print."""
    metrics, memory, protocol = report["metrics"], report["peak_memory_bytes"], report["protocol"]
    distance = report["distance"]
    missing = {
        name: _missing(value, report["not_measured"].get(name))
        for name, value in (("lpips", metrics["lpips"]), ("distance", distance["value"]))
    }
    flops = ", ".join(f"{name} {format_flops(count)}" for name, count in report["flops_per_clip"].items())
    rows = {
        "PSNR": f"{metrics['psnr']:.3f} dB",
        "SSIM": f"{metrics['ssim']:.4f}",
        "LPIPS": missing["lpips"] or f"{metrics['lpips']:.4f} ({protocol['lpips_weights']})",
        distance["name"]: missing["distance"] or f"{distance['value']:.2f}",
        "compression rate": f"{report['compression_rate']:.4%}",
        "FLOPs of a clip": flops,
        "peak memory": NOT_MEASURED if memory is None else format_bytes(memory),
        "frames per second": f"{report['frames_per_second']:.1f} per process on {protocol['device']}, without reading",
        "latents": protocol["part"],
        "measured on": f"{report['videos']} videos, {report['clips']} clips, {report['frames']} frames",
        "unreadable": str(len(report["unreadable"])),
    }
    names = {"moments": "two moments", "clips": "two clips"}
    rows |= {f"between {names[kind]}": _interpolated(found) for kind, found in report["interpolated"].items()}
    width = max(18, len(distance["name"]))
    lines = [f"{name:{width}} {value}" for name, value in rows.items()]
    return "\n".join(lines + [f"  {entry['reason']}" for entry in report["unreadable"]])


def _interpolated(found: dict[str, Any]) -> str:
    seen = "" if found["oracle"] is None else f", shape and motion seen in {found['oracle']:.1%}"
    if found["distance"] is None and found["clips"] < 2:
        return f"{NOT_MEASURED}: it takes at least 2 videos of interpolated latents, not {found['clips']}{seen}"
    distance = NOT_MEASURED if found["distance"] is None else f"{found['distance']:.2f}"
    return f"{distance} of {found['clips']} videos of interpolated latents{seen}"


def write_rows(path: Path, scores: Sequence[VideoScore]) -> None:
    """Write videos.csv, with one line per video."""
    names = list(scores[0].metrics)
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        lines = csv.writer(file)
        lines.writerow(["video", "start", "end", "fps", "stride", "frames", *names])
        for score in scores:
            end = "" if math.isinf(score.end) else score.end
            shares = (score.metrics[name] for name in names)
            lines.writerow([score.video, score.start, end, score.fps, score.stride, score.frames, *shares])


def write_sheet(path: Path, evaluation: Evaluation, videos: Sequence[ListedVideo]) -> None:
    """Write clips.png: the best, the median and the worst clip, each original above its reconstruction."""
    rows = []
    for name, score, number in best_median_worst(evaluation.scores):
        clips = evaluation.clip(videos[score.index], number)
        caption = f"{name}: {score.clip_psnr[number]:.2f} dB, {score.video}, clip {number + 1}"
        rows.append((caption, [to_uint8(2 * clip - 1) for clip in clips]))
    save_png(sheet(rows), path)


def execute(config: EvaluateConfig) -> None:
    """Evaluate an autoencoder on videos, print the table and write the report."""
    with process_group() as (rank, world_size):
        evaluation, notes = prepare(config)
        shape = evaluation.protocol.num_frames, evaluation.protocol.size
        videos = made_shapes(config.num_shapes, *shape) if config.takes_shapes else list_videos(config.videos)
        share = list(enumerate(videos))[rank::world_size]
        evaluation.add(progress_bar(None, "evaluating", "video", show=rank == 0, over=share))
        evaluation.interpolate(rank, world_size)
        evaluation.gather()
        if rank > 0:
            return
        protocol = describe_protocol(config, evaluation, notes, world_size)
        report = make_report(evaluation, videos, protocol, notes)
        write_sheet(config.output_dir / "clips.png", evaluation, videos)
        write_rows(config.output_dir / "videos.csv", evaluation.scores)
        with atomic_path(config.output_dir / "evaluation.json") as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))
    print(f"wrote evaluation.json, videos.csv and clips.png to {config.output_dir}")
