"""Sample videos from a pipeline folder: `python -m pipelines.sample --pipeline DIR --class NAME --out DIR`.

With `--structure FILE` or `--dynamics FILE` one of the two latents is that of a video, and the other one is sampled.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autoencoder.common.commands import build, make_parser, run_command
from autoencoder.common.errors import UserError
from autoencoder.common.pictures import save_png, sheet, unit_to_uint8
from autoencoder.data.video_io import write_video
from autoencoder.latents import VidTwinLatents
from pipelines.checkpoint import load_pipeline
from pipelines.conditioning import read_latents
from pipelines.file_names import class_file_names
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline


@dataclass
class SampleConfig:
    """What to sample, and how."""

    pipeline: Path
    """Folder of the pipeline, as `python -m generator.train` leaves it."""
    classes: list[str]
    """Classes by name or 0-based id, or "all"; usually given as `--class NAME`, as often as there are classes. A class
    that is given twice gets twice as many videos."""
    out: Path
    """Folder for the videos and sheet.png; of what lies there, files of the same names are replaced, which is said."""
    num_videos: int = 1
    """Videos per class, with the seeds `seed`, `seed` + 1 and so on."""
    num_inference_steps: int = 50
    """Steps of the scheduler."""
    guidance_scale: float | tuple[float, float] = 5.0
    """Weight of classifier-free guidance, or "[STRUCTURE, DYNAMICS]" with a weight for each latent; 1 turns it off."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest noise level with guidance, as shares of the schedule: "[LOW, HIGH]"."""
    structure: Path | None = None
    """Video to take the structure latent from, or latents in a .safetensors file; the dynamics are sampled."""
    dynamics: Path | None = None
    """The same for the dynamics latent; the structure is sampled."""
    clip_fps: float | None = 8.0
    """Frames per second at which the video of a latent is read; null takes every frame."""
    clip_start: float = 0.0
    """Second of that video from which on its clip is taken."""
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
            raise UserError("no class is given: name one with --class, or --class all")
        for name in ("num_videos", "num_inference_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.structure is not None and self.dynamics is not None:
            raise UserError("--structure and --dynamics are both given: there is nothing left to sample")


def class_ids(pipe: VidTwinDiffusionPipeline, classes: Sequence[str]) -> list[int]:
    """Class names, ids as text, or "all", as ids; where classes are named by numbers, a number is a name.

    Raises:
        ValueError: for an unknown class, with the nearest ones.
    """
    if [name.casefold() for name in classes] == ["all"]:
        return list(range(pipe.transformer.config.num_classes))
    return [pipe.label(name) for name in classes]


def given_latents(pipe: VidTwinDiffusionPipeline, config: SampleConfig) -> dict[str, VidTwinLatents]:
    """The latent that all videos are to have, as an argument of the pipeline.

    Raises:
        FileNotFoundError, UnreadableVideo: if there is no such file, or no clip in it.
        ValueError: if the file holds the latents of several clips.
    """
    files = {"structure": config.structure, "dynamics": config.dynamics}
    given = {
        name: read_latents(path, pipe.vae, config.clip_fps, config.clip_start)
        for name, path in files.items()
        if path is not None
    }
    for name, latents in given.items():
        if len(latents) != 1:
            raise UserError(f"--{name} {files[name]} holds the latents of {len(latents)} clips: give those of one")
    return given


def wanted_videos(ids: Sequence[int], config: SampleConfig) -> list[tuple[int, int]]:
    """Class id and seed of every video: all that are asked for, no two alike."""
    given = Counter()
    wanted = []
    for class_id in ids:
        first = config.seed + given[class_id]
        wanted += [(class_id, seed) for seed in range(first, first + config.num_videos)]
        given[class_id] += config.num_videos
    return wanted


def sample_videos(
    pipe: VidTwinDiffusionPipeline, config: SampleConfig, wanted: Sequence[tuple[int, int]]
) -> Iterator[np.ndarray]:
    """Sample in batches and print what each cost.

    Args:
        pipe: the pipeline.
        config: how to sample.
        wanted: class id and seed of every video.

    Yields:
        The frames of each, uint8 (T, H, W, 3).
    """
    given = given_latents(pipe, config)
    for start in range(0, len(wanted), config.batch_size):
        batch = wanted[start : start + config.batch_size]
        out = pipe(
            [class_id for class_id, _ in batch],
            config.num_inference_steps,
            config.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for _, seed in batch],
            guidance_interval=config.guidance_interval,
            **given,
        )
        print(f"videos {start + 1} to {start + len(batch)} of {len(wanted)}: {out.cost}")
        yield from (unit_to_uint8(video).numpy() for video in out.frames)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, sample, write."""
    parser = make_parser(SampleConfig, __doc__, "pipelines.sample", repeated={"class": "classes"})
    config = build(SampleConfig, parser.read(argv))

    pipe = load_pipeline(config.pipeline, config.device, config.scheduler)
    wanted = wanted_videos(class_ids(pipe, config.classes), config)
    id2label, num_classes = pipe.transformer.config.id2label or {}, pipe.transformer.config.num_classes
    names = [id2label.get(str(class_id), str(class_id)) for class_id in range(num_classes)]
    file_names = class_file_names(names)
    paths = [config.out / f"{file_names[class_id]}_{seed}.mp4" for class_id, seed in wanted]
    if there := [path.name for path in paths if path.exists()]:
        print(f"{len(there)} of these videos are in {config.out} already and are replaced, the first one {there[0]}")
    rows = []
    for (class_id, seed), path, frames in zip(wanted, paths, sample_videos(pipe, config, wanted), strict=True):
        write_video(path, frames, config.fps)
        rows.append((f"{names[class_id]}, seed {seed}", frames))
    save_png(sheet(rows), config.out / "sheet.png")
    print(f"wrote {len(rows)} videos and sheet.png to {config.out}")


if __name__ == "__main__":
    run_command(main)
