"""The work of `python -m benchmarks.sixth_shape`."""

import json
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from autoencoder.codec import decode_clips, encode_clips
from autoencoder.common.commands import start_command
from autoencoder.common.device import resolve_device
from autoencoder.common.files import atomic_path
from autoencoder.common.pictures import save_png, sheet, unit_to_uint8
from autoencoder.data import Shapes
from autoencoder.data.shapes import ALL_CLASS_NAMES, CLASS_NAMES, shapes_of
from autoencoder.metrics.oracle import confirmed, confirms, oracle
from benchmarks.report import environment, write_json
from benchmarks.sixth_shape import SixthShapeConfig
from pipelines.checkpoint import load_pipeline
from pipelines.goals import FIRST_SEED, class_names
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

NEW_CLASSES = tuple(name for name in ALL_CLASS_NAMES if name not in CLASS_NAMES)
BATCH_SIZE = 20
KINDS = {True: "LoRA with replay", False: "LoRA without replay"}


@dataclass(frozen=True)
class Row:
    """What the oracle confirms in the clips of a kind.

    Attributes:
        clips: what they are.
        old, new: share of clips of the ten old and the two new classes that show shape and motion as asked, in [0, 1];
            None where there are none.
        by_class: the same by class.
        seconds, processor_seconds: of the training, with everything before its first step; None where there is none.
    """

    clips: str
    old: float | None
    new: float | None
    by_class: dict[str, float]
    seconds: float | None = None
    processor_seconds: float | None = None


@dataclass(frozen=True)
class Training:
    """A training that is done: its pipeline and what it took."""

    pipeline: Path
    lora: Path
    seconds: float
    processor_seconds: float


def execute(config: SixthShapeConfig) -> None:
    """Train, judge, print and write."""
    base = load_pipeline(config.pipeline, config.device)
    rows = [*held_out_rows(base, config), judged("base", base, config)]
    shown = None
    for with_replay in (True, False)[: 1 + config.without_replay]:
        for seed in range(config.seeds):
            training = trained(config, with_replay, seed)
            pipe = load_pipeline(training.pipeline, config.device)
            title = f"{KINDS[with_replay]}, seed {seed}"
            rows.append(judged(title, pipe, config, training))
            shown = shown or (pipe, training)
    pipe, training = shown
    difference = fused_from_unfused(base, pipe, training.lora)
    print(f"\n{table(rows)}\n\nfused and unfused latents of one sample differ by {difference:.1e} at most")
    about = environment(resolve_device(config.device)) | {
        "settings": json.loads(json.dumps(asdict(config), default=str))
    }
    write_json(config.output_dir / "sixth_shape.json", "sixth_shape", about | {"fused_unfused": difference}, rows)
    print(f"wrote {config.output_dir / 'sixth_shape.json'}")
    if config.sheet:
        save_png(sheet(pictures(pipe, config), columns=8, scale=1), config.sheet)
        print(f"wrote {config.sheet}")


def trained(config: SixthShapeConfig, with_replay: bool, seed: int) -> Training:
    """Train LoRA by the command, unless it is done with the same flags."""
    folder = config.output_dir / f"{'with' if with_replay else 'without'}-replay-{seed}"
    flags = ["--config", config.preset, "--init-from", config.pipeline, "--max-videos", str(config.num_clips)]
    flags += ["--classes", ",".join(NEW_CLASSES), "--seed", str(seed), "--output-dir", str(folder)]
    flags += ["--latent-cache", str(config.output_dir / "latents")]
    flags += [] if with_replay else ["--lora-replay", "0"]
    flags += [] if config.max_steps is None else ["--max-steps", str(config.max_steps)]
    note = folder / "made_with.json"
    if not note.is_file() or json.loads(note.read_text())["flags"] != flags:
        start, before = time.perf_counter(), _processor_seconds()
        start_command("generator.train", flags)
        took = {"seconds": time.perf_counter() - start, "processor_seconds": _processor_seconds() - before}
        with atomic_path(note) as temporary:
            temporary.write_text(json.dumps({"flags": flags} | took, indent=2) + "\n")
    noted = json.loads(note.read_text())
    return Training(folder / "pipeline", folder / "lora", noted["seconds"], noted["processor_seconds"])


def _processor_seconds() -> float:
    """Time of all processors that ended child processes took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def judged(
    title: str, pipe: VidTwinDiffusionPipeline, config: SixthShapeConfig, training: Training | None = None
) -> Row:
    """Sample every class, and let the oracle judge."""
    print(f"sampling: {title}", flush=True)
    pipe.set_progress_bar_config(disable=True)
    clips, names = [], []
    for name in class_names(pipe):
        for first in range(0, config.samples_per_class, BATCH_SIZE):
            count = min(BATCH_SIZE, config.samples_per_class - first)
            clips.append(_sample(pipe, name, config, FIRST_SEED + first, count))
            names += [name] * count
    row = _row(title, torch.cat(clips), names)
    times = {} if training is None else {name: getattr(training, name) for name in ("seconds", "processor_seconds")}
    return Row(**(asdict(row) | times))


def _sample(pipe: VidTwinDiffusionPipeline, name: str, config: SixthShapeConfig, seed: int, count: int) -> torch.Tensor:
    """Samples of a class, uint8 (B, T, H, W, 3)."""
    out = pipe(name, config.num_inference_steps, config.guidance_scale, count, generator=seed)
    return unit_to_uint8(out.frames)


def held_out_rows(base: VidTwinDiffusionPipeline, config: SixthShapeConfig) -> list[Row]:
    """What can be reached: held-out clips of all classes, and their reconstructions by the frozen autoencoder."""
    size = base.vae.config
    data = Shapes(size.num_frames, size.sample_size, "val", ALL_CLASS_NAMES)
    indices = range(config.held_out_clips)
    clips, names = torch.stack([data.clip(i) for i in indices]), [data.class_names[data.label(i)] for i in indices]
    rebuilt = decode_clips(base.vae, encode_clips(base.vae, clips))
    return [_row("held-out clips", clips, names), _row("reconstructions of them", rebuilt, names)]


def _row(title: str, clips: torch.Tensor, names: Sequence[str]) -> Row:
    """Judge clips (N, T, H, W, 3) of these classes (N,); the oracle tells six shapes apart, whichever these are."""
    shapes = shapes_of(ALL_CLASS_NAMES)
    verdicts = [oracle(clip, shapes) for clip in clips]

    def share(classes: Sequence[str]) -> float | None:
        pairs = [(verdict, name) for verdict, name in zip(verdicts, names, strict=True) if name in classes]
        return confirmed(*zip(*pairs, strict=True))["both"] if pairs else None

    by_class = {name: share([name]) for name in dict.fromkeys(names)}
    return Row(title, share(CLASS_NAMES), share(NEW_CLASSES), by_class)


def fused_from_unfused(base: VidTwinDiffusionPipeline, fused: VidTwinDiffusionPipeline, lora: Path) -> float:
    """The largest difference of a latent between the fused pipeline and the base with LoRA beside its weights."""
    base.load_lora_weights(lora)
    latents = [pipe(NEW_CLASSES[0], 10, 2.0, generator=0, output_type="latent").frames for pipe in (base, fused)]
    base.unload_lora_weights()
    return max(
        (getattr(latents[0], name) - getattr(latents[1], name)).abs().max().item() for name in ("structure", "dynamics")
    )


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| clips | ten old classes | two new ones | least old class | training, s | of processors, s |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        least = min((name for name in row.by_class if name in CLASS_NAMES), key=row.by_class.get)
        shares = ["not known" if share is None else f"{share:.1%}" for share in (row.old, row.new)]
        times = ["" if value is None else f"{value:.0f}" for value in (row.seconds, row.processor_seconds)]
        lines.append(
            f"| {row.clips} | {' | '.join(shares)} | {least} {row.by_class[least]:.0%} | {' | '.join(times)} |"
        )
    return "\n".join(lines)


def pictures(pipe: VidTwinDiffusionPipeline, config: SixthShapeConfig) -> list[tuple[str, list[torch.Tensor]]]:
    """Samples of all classes, those with a fault first in each row, with what is right in a row's caption."""
    rows = []
    for name in class_names(pipe)[::-1]:
        clips = list(_sample(pipe, name, config, FIRST_SEED, 8))
        right = [confirms(oracle(clip, shapes_of(ALL_CLASS_NAMES)), name)["both"] for clip in clips]
        order = sorted(range(len(clips)), key=lambda place: right[place])
        rows.append((f"{name}: {sum(right)} of {len(clips)} confirmed", [clips[place] for place in order]))
    return rows
