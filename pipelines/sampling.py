"""Sampling to files by a config, for `python -m pipelines.sample`."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from autoencoder.common.errors import UserError
from autoencoder.common.pictures import SHEET_COLUMNS, evenly_spaced, save_png, sheet, unit_to_uint8
from autoencoder.common.upscaling import SHOWN_WIDTH
from autoencoder.data.video_io import open_mp4, write_video
from autoencoder.latents import VidTwinLatents
from pipelines.checkpoint import load_pipeline
from pipelines.conditioning import read_latents
from pipelines.file_names import class_file_names
from pipelines.grid import video_grid
from pipelines.output import PipelineCost, VidTwinPipelineOutput, sum_costs
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline
from pipelines.sample import SampleConfig


def class_ids(pipe: VidTwinDiffusionPipeline, classes: Sequence[str]) -> list[int]:
    """The ids of classes, given as names, as ids in digits, or as "all"; a class named by a number goes first.

    Raises:
        UserError: for an unknown class, whose message lists the nearest ones, or for "all" beside others.
    """
    if [name.casefold() for name in classes] == ["all"]:
        return list(range(pipe.transformer.config.num_classes))
    known = (pipe.transformer.config.id2label or {}).values()
    if "all" in map(str.casefold, classes) and "all" not in map(str.casefold, known):
        raise UserError(f"--class all is every class, and stands alone: got {', '.join(classes)}")
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


def sample_videos(
    pipe: VidTwinDiffusionPipeline, config: SampleConfig, wanted: Sequence[tuple[int, int]]
) -> Iterator[np.ndarray]:
    """Sample in batches, and print the cost of each.

    Args:
        pipe: the pipeline.
        config: the command's config.
        wanted: class id and seed of every video.

    Yields:
        The frames of each, uint8 (T, H, W, 3).
    """
    for start, arguments in _batches(pipe, config, wanted):
        out = pipe(**arguments)
        print(f"videos {start + 1} to {start + len(out.frames)} of {len(wanted)}: {out.cost}")
        yield from (unit_to_uint8(video).numpy() for video in out.frames)


def _batches(
    pipe: VidTwinDiffusionPipeline, config: SampleConfig, wanted: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The place of the first video of each batch, and the arguments of the pipeline."""
    given = given_latents(pipe, config)
    same = ("num_frames", "num_inference_steps", "guidance_scale", "guidance_interval", "overlap", "structure_strength")
    given |= {name: getattr(config, name) for name in same}
    for start in range(0, len(wanted), config.batch_size):
        class_id, seeds = map(list, zip(*wanted[start : start + config.batch_size], strict=True))
        yield start, given | {"class_id": class_id, "generator": seeds}


def sample_whole(
    pipe: VidTwinDiffusionPipeline, config: SampleConfig, wanted: Sequence[tuple[int, int]], paths: Sequence[Path]
) -> Iterator[tuple[np.ndarray, str]]:
    """Sample videos of a clip or less, and write them; as `sample_to_files`, but yields all frames."""
    for path, frames in zip(paths, sample_videos(pipe, config, wanted), strict=True):
        yield frames, write_video(path, frames, config.fps, config.upscale)


def sample_to_files(
    pipe: VidTwinDiffusionPipeline, config: SampleConfig, wanted: Sequence[tuple[int, int]], paths: Sequence[Path]
) -> Iterator[tuple[np.ndarray, str]]:
    """Sample videos longer than a clip, and write each as its clips come, so that its length takes no memory.

    Args:
        pipe: the pipeline.
        config: the command's config.
        wanted: class id and seed of every video.
        paths: its file.

    Yields:
        Of each video the frames that a sheet shows, uint8 (T, H, W, 3), and its size in words.
    """
    for start, arguments in _batches(pipe, config, wanted):
        clips = pipe.stream(**arguments)
        with ExitStack() as stack:
            here = paths[start : start + config.batch_size]
            writers = [stack.enter_context(open_mp4(path, config.fps, config.upscale)) for path in here]
            shown, size, cost = _write_clips(clips, writers, evenly_spaced(config.num_frames, SHEET_COLUMNS))
        print(f"videos {start + 1} to {start + len(here)} of {len(wanted)}: {cost}")
        yield from ((frames, size) for frames in shown)


def _write_clips(
    clips: Iterator[VidTwinPipelineOutput], writers: Sequence[Callable[[np.ndarray], str]], places: Sequence[int]
) -> tuple[list[np.ndarray], str, PipelineCost]:
    """Append the clips to the files of their videos; returns each video's frames at these places, size and cost."""
    kept: list[list[np.ndarray]] = [[] for _ in writers]
    costs, count, size = [], 0, ""
    for out in clips:
        costs.append(out.cost)
        for video, write, frames_of in zip(out.frames, writers, kept, strict=True):
            frames = unit_to_uint8(video).numpy()
            size = write(frames)
            frames_of += [frames[place - count].copy() for place in places if 0 <= place - count < len(frames)]
        count += len(frames)
    return [np.stack(frames) for frames in kept], size, sum_costs(costs)


def _check_format(config: SampleConfig, is_long: bool, size: int) -> None:
    """Refuse a format that cannot hold the videos, before they are sampled; `size` is their width and height."""
    if is_long and config.format != "mp4":
        raise UserError(
            f"format={config.format!r}: a video longer than a clip is written as its clips come: --format mp4 allows it"
        )
    if config.format == "mp4" and size % 2 and (config.upscale == "none" or size >= SHOWN_WIDTH):
        raise UserError(
            f"format='mp4' takes no odd sides, and the videos have {size} x {size}: give --format webp or gif"
        )


def execute(config: SampleConfig) -> None:
    """Sample, and write videos and a sheet."""
    pipe = load_pipeline(config.pipeline, config.device, config.scheduler)
    if config.lora is not None:
        pipe.load_lora_weights(config.lora)
        pipe.fuse_lora(lora_scale=config.lora_scale)
    wanted = wanted_videos(class_ids(pipe, config.classes), config)
    id2label, num_classes = pipe.transformer.config.id2label or {}, pipe.transformer.config.num_classes
    names = [id2label.get(str(class_id), str(class_id)) for class_id in range(num_classes)]
    file_names = class_file_names(names)
    paths = [config.out / f"{file_names[class_id]}_{seed}.{config.format}" for class_id, seed in wanted]
    is_long = config.num_frames is not None and config.num_frames > pipe.vae.config.num_frames
    _check_format(config, is_long, pipe.vae.config.sample_size)
    if there := [path.name for path in paths if path.exists()]:
        print(f"{len(there)} of these videos are in {config.out} already and are replaced, the first one {there[0]}")
    labels = [names[class_id] for class_id, _ in wanted]
    written = sample_to_files if is_long else sample_whole
    clips, sizes = zip(*written(pipe, config, wanted, paths), strict=True)
    captions = [f"{name}, seed {seed}" for name, (_, seed) in zip(labels, wanted, strict=True)]
    save_png(sheet(list(zip(captions, clips, strict=True))), config.out / "sheet.png")
    others = ["sheet.png"]
    if config.grid and len(clips) > 1 and not is_long:
        others.append(f"grid.{config.format}")
        seeds = [f"seed {seed}" for _, seed in wanted]
        write_video(config.out / others[-1], video_grid(clips, labels, seeds, config.upscale), config.fps)
    print(f"wrote {len(clips)} videos ({sizes[-1]}), {' and '.join(others)} to {config.out}")
