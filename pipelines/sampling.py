"""Sampling to files by a config, for `python -m pipelines.sample`."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from autoencoder.common.errors import UserError
from autoencoder.common.pictures import SHEET_COLUMNS, evenly_spaced, save_png, sheet, unit_to_uint8
from autoencoder.data.video_io import open_mp4
from autoencoder.latents import VidTwinLatents
from pipelines.checkpoint import load_pipeline
from pipelines.conditioning import read_latents
from pipelines.file_names import class_file_names
from pipelines.output import PipelineCost, sum_costs
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline
from pipelines.sample import SampleConfig


def class_ids(pipe: VidTwinDiffusionPipeline, classes: Sequence[str]) -> list[int]:
    """The ids of classes, given as names, as ids in digits, or as "all"; a class named by a number goes first.

    Raises:
        UserError: for an unknown class; the message lists the nearest ones.
    """
    if [name.casefold() for name in classes] == ["all"]:
        return list(range(pipe.transformer.config.num_classes))
    return [pipe.label(name) for name in classes]


def given_latents(pipe: VidTwinDiffusionPipeline, config: SampleConfig) -> dict[str, VidTwinLatents]:
    """The given latent of all videos as an argument of the pipeline; empty if none is given.

    Raises:
        MissingFileError, UnreadableVideo: if there is no such file, or no clip in it.
        UserError: if the file holds the latents of several clips.
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
    """Class id and seed of every video; the seeds of a class that is named twice go on, so no two videos are equal."""
    given = Counter()
    wanted = []
    for class_id in ids:
        first = config.seed + given[class_id]
        wanted += [(class_id, seed) for seed in range(first, first + config.num_videos)]
        given[class_id] += config.num_videos
    return wanted


def sample_to_files(
    pipe: VidTwinDiffusionPipeline,
    config: SampleConfig,
    batch: Sequence[tuple[int, int]],
    paths: Sequence[Path],
    given: dict[str, VidTwinLatents],
) -> tuple[list[np.ndarray], PipelineCost]:
    """Sample a batch of videos, and write each as its clips come, so that a long one takes no more memory.

    Args:
        pipe: the pipeline.
        config: the command's config.
        batch: class id and seed of every video.
        paths: their files.
        given: of `given_latents`.

    Returns:
        Of each video the frames that a sheet shows, uint8 (T, H, W, 3), and what the batch cost.
    """
    clips = pipe.stream(
        [class_id for class_id, _ in batch],
        num_frames=config.num_frames,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        guidance_interval=config.guidance_interval,
        generator=[torch.Generator().manual_seed(seed) for _, seed in batch],
        overlap=config.overlap,
        structure_strength=config.structure_strength,
        **given,
    )
    shown = evenly_spaced(config.num_frames or pipe.vae.config.num_frames, SHEET_COLUMNS)
    kept: list[list[np.ndarray]] = [[] for _ in batch]
    costs, count = [], 0
    with ExitStack() as stack:
        writers = [stack.enter_context(open_mp4(path, config.fps)) for path in paths]
        for out in clips:
            costs.append(out.cost)
            for video, write, frames_of in zip(out.frames, writers, kept, strict=True):
                frames = unit_to_uint8(video).numpy()
                write(frames)
                frames_of += [frames[place - count].copy() for place in shown if 0 <= place - count < len(frames)]
            count += len(frames)
    return [np.stack(frames) for frames in kept], sum_costs(costs)


def execute(config: SampleConfig) -> None:
    """Sample, and write videos and a sheet."""
    pipe = load_pipeline(config.pipeline, config.device, config.scheduler)
    wanted = wanted_videos(class_ids(pipe, config.classes), config)
    id2label, num_classes = pipe.transformer.config.id2label or {}, pipe.transformer.config.num_classes
    names = [id2label.get(str(class_id), str(class_id)) for class_id in range(num_classes)]
    file_names = class_file_names(names)
    paths = [config.out / f"{file_names[class_id]}_{seed}.mp4" for class_id, seed in wanted]
    if there := [path.name for path in paths if path.exists()]:
        print(f"{len(there)} of these videos are in {config.out} already and are replaced, the first one {there[0]}")
    rows, given = [], given_latents(pipe, config)
    for start in range(0, len(wanted), config.batch_size):
        here = slice(start, start + config.batch_size)
        shown, cost = sample_to_files(pipe, config, wanted[here], paths[here], given)
        print(f"videos {start + 1} to {start + len(shown)} of {len(wanted)}: {cost}")
        rows += [
            (f"{names[label]}, seed {seed}", frames) for (label, seed), frames in zip(wanted[here], shown, strict=True)
        ]
    save_png(sheet(rows), config.out / "sheet.png")
    print(f"wrote {len(rows)} videos and sheet.png to {config.out}")
