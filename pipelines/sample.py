"""Sample videos from a pipeline folder: `python -m pipelines.sample --pipeline DIR --class NAME --out DIR`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autoencoder.data.video_io import write_video
from autoencoder.pictures import save_png, sheet
from configs import build, make_parser, normalized, run_command
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline
from pipelines.schedulers import convert_scheduler


@dataclass
class SampleConfig:
    """What to sample, and how."""

    pipeline: Path
    """Folder of the pipeline, as `python -m generator.train` leaves it."""
    classes: list[str]
    """Classes by name or 0-based id, or "all"; usually given as `--class NAME`, as often as there are classes."""
    out: Path
    """Folder for the videos and sheet.png."""
    num_videos: int = 1
    """Videos per class, with the seeds `seed`, `seed` + 1 and so on."""
    num_inference_steps: int = 50
    """Steps of the scheduler."""
    guidance_scale: float = 5.0
    """Weight of classifier-free guidance; 1 turns it off."""
    seed: int = 0
    """Seed of each class's first video. A video depends on its class and seed alone, not on what else is asked for."""
    scheduler: str | None = None
    """Class name of a diffusers scheduler in place of the pipeline's own."""
    fps: float = 8.0
    """Frames per second of the files."""
    batch_size: int = 8
    """Videos sampled at a time."""
    device: str = "auto"
    """Where to run, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""

    def __post_init__(self):
        if not self.classes:
            raise ValueError("no class is given: name one with --class, or --class all")
        for name in ("num_videos", "num_inference_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"


def load_pipeline(config: SampleConfig) -> VidTwinDiffusionPipeline:
    """Read the pipeline folder, and exchange the scheduler if another one is asked for.

    Raises:
        FileNotFoundError: if the folder holds no pipeline.
        ValueError: if the scheduler does not fit.
    """
    if not (config.pipeline / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{config.pipeline} is no pipeline folder: it must hold model_index.json and the folders vae, transformer "
            "and scheduler; `python -m generator.train` makes one"
        )
    pipe = VidTwinDiffusionPipeline.from_pretrained(config.pipeline).to(config.device)
    if config.scheduler is not None:
        prediction_type = pipe.transformer.config.prediction_type
        pipe.scheduler = convert_scheduler(config.scheduler, pipe.scheduler.config, prediction_type)
    return pipe


def class_ids(pipe: VidTwinDiffusionPipeline, classes: Sequence[str]) -> list[int]:
    """Class names, ids as text, or "all", as ids; where classes are named by numbers, a number is a name.

    Raises:
        ValueError: for an unknown class, with the nearest ones.
    """
    if [name.casefold() for name in classes] == ["all"]:
        return list(range(pipe.transformer.config.num_classes))
    known = {name.casefold() for name in (pipe.transformer.config.id2label or {}).values()}
    is_id = [name.casefold() not in known and re.fullmatch(r"-?\d+", name) for name in classes]
    return [pipe.label(int(name) if numeric else name) for name, numeric in zip(classes, is_id, strict=True)]


def sample_videos(
    pipe: VidTwinDiffusionPipeline, config: SampleConfig, ids: Sequence[int]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Sample in batches and print what each cost.

    Yields:
        Class id, seed, and frames uint8 (T, H, W, 3).
    """
    wanted = [(class_id, config.seed + index) for class_id in ids for index in range(config.num_videos)]
    for start in range(0, len(wanted), config.batch_size):
        batch = wanted[start : start + config.batch_size]
        out = pipe(
            [class_id for class_id, _ in batch],
            config.num_inference_steps,
            config.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for _, seed in batch],
        )
        print(f"videos {start + 1} to {start + len(batch)} of {len(wanted)}: {out.cost}")
        for (class_id, seed), video in zip(batch, out.frames, strict=True):
            yield class_id, seed, (video * 255).round().astype(np.uint8)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, sample, write."""
    parser = make_parser(SampleConfig, "Sample videos from a pipeline folder.")
    # `class` cannot be the name of a field; `classes+` appends to the list.
    arguments = [re.sub(r"^--class(?==|$)", "--classes+", argument) for argument in normalized(argv)]
    config = build(SampleConfig, parser.parse_args(arguments))

    pipe = load_pipeline(config)
    rows = []
    for class_id, seed, frames in sample_videos(pipe, config, class_ids(pipe, config.classes)):
        name = (pipe.transformer.config.id2label or {}).get(str(class_id), str(class_id))
        file_name = re.sub(r"[^\w.-]+", "_", name)
        write_video(config.out / f"{file_name}_{seed}.mp4", frames, config.fps)
        rows.append((f"{name}, seed {seed}", frames))
    save_png(sheet(rows), config.out / "sheet.png")
    print(f"wrote {len(rows)} videos and sheet.png to {config.out}")


if __name__ == "__main__":
    run_command(main)
