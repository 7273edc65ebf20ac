"""The work of `python -m benchmarks.long_videos`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from autoencoder.codec import decode_clips, encode_clips
from autoencoder.common.device import resolve_device
from autoencoder.common.errors import UserError
from autoencoder.common.pictures import save_png, sheet, unit_to_uint8
from autoencoder.data.shapes import CLASS_NAMES, Shapes, render
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics.oracle import Verdict, confirms, oracle
from autoencoder.metrics.reconstruction import clips_psnr
from autoencoder.metrics.separation import agreement
from autoencoder.vidtwin import AutoencoderVidTwin
from benchmarks.long_videos import LongVideosConfig
from benchmarks.report import environment, write_json
from pipelines.chaining import Windows
from pipelines.checkpoint import load_pipeline
from pipelines.goals import FIRST_SEED, class_names
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

BATCH_SIZE = 25
GOAL = 1.5  # of the jump at a join
SHEET_VIDEOS, SHEET_COLUMNS = 2, 16
NUM_PLACES = 60  # held-out clips
PLACES_HEADER = (
    "| overlap | latents moved, from those of the place | frames from the place's latents | from moved ones | encoded "
    "again |\n|---|---|---|---|---|"
)
HEADER = (
    "| videos | overlap | class, whole | class, by clip | content kept | last as first | jump | jump at most "
    f"{GOAL} | kink |\n|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class LongVideos:
    """Long videos of known classes.

    Attributes:
        name: how they were made.
        overlap: frames that a clip goes on from; 0 for none.
        frames: uint8 (N, T, H, W, 3).
        class_names: N, the class asked for.
    """

    name: str
    overlap: int
    frames: torch.Tensor
    class_names: list[str]


@dataclass(frozen=True)
class VideoFigures:
    """What is measured of one video. All but `jump` is by the oracle, of as many pieces as a clip fills.

    Attributes:
        whole: whether its class is confirmed of all frames together.
        by_clip: share of the pieces of which it is.
        content_kept: share of neighbouring pieces that agree in shape and both colours.
        last_as_first: whether the last piece agrees with the first.
        jump: mean difference of the frames where clips join, over that of neighbouring frames inside clips.
        kink: the same of the acceleration of the shape's centre; NaN where the oracle sees no shape.
    """

    whole: bool
    by_clip: float
    content_kept: float
    last_as_first: bool
    jump: float
    kink: float


@dataclass(frozen=True)
class LongVideosRow:
    """The figures of all videos made in one way: means, and medians of `jump` and `kink`, None if it was never seen.

    Attributes:
        videos, overlap: as `LongVideos.name` and `LongVideos.overlap`.
        num_videos: how many.
        whole, by_clip, content_kept, last_as_first, jump, kink: as of `VideoFigures`.
        smooth: share of the videos whose jump is at most `GOAL`.
    """

    videos: str
    overlap: int
    num_videos: int
    whole: float
    by_clip: float
    content_kept: float
    last_as_first: float
    jump: float
    smooth: float
    kink: float | None

    def __str__(self) -> str:
        shares = (self.whole, self.by_clip, self.content_kept, self.last_as_first)
        cells = [self.videos, str(self.overlap), *(f"{share:.1%}" for share in shares), f"{self.jump:.2f}"]
        kink = "not measured" if self.kink is None else f"{self.kink:.2f}"
        return f"| {' | '.join([*cells, f'{self.smooth:.0%}', kink])} |"


@dataclass(frozen=True)
class PlacesRow:
    """What becomes of the last frames of a clip as the first of the next one; PSNR in dB, of these frames.

    Attributes:
        overlap: number of frames.
        difference: of their dynamics latents at the one place and at the other, RMS over the latents' own spread.
        psnr_own: decoded from the latents of the next clip itself.
        psnr_moved: from those of the clip before, moved.
        psnr_again: from those of the clip before, decoded and encoded again at the start of a clip.
    """

    overlap: int
    difference: float
    psnr_own: float
    psnr_moved: float
    psnr_again: float

    def __str__(self) -> str:
        cells = [str(self.overlap), f"{self.difference:.1%}"]
        cells += [f"{value:.2f} dB" for value in (self.psnr_own, self.psnr_moved, self.psnr_again)]
        return f"| {' | '.join(cells)} |"


def measure_places(vae: AutoencoderVidTwin, held_out: Shapes, overlap: int) -> PlacesRow:
    """Measure how the dynamics latents of real frames depend on the place of the frames in the clip."""
    frames, indices = held_out.num_frames, range(NUM_PLACES)
    shift = (frames - overlap) / frames
    later = torch.stack(
        [render(held_out.content(index), held_out.motion(index, shift), held_out.size) for index in indices]
    )  # (N, T, H, W, 3)
    before, own = encode_clips(vae, torch.stack([held_out.clip(index) for index in indices])), encode_clips(vae, later)
    shown = decode_clips(vae, before)[:, frames - overlap :]
    held = shown[:, -1:].expand(-1, frames - overlap, -1, -1, -1)  # causal attention: no frame sees what comes later
    again = encode_clips(vae, torch.cat([shown, held], dim=1))

    def psnr(first: torch.Tensor) -> float:
        dynamics = torch.cat([first, own.dynamics[:, :, overlap:]], dim=2)
        decoded = decode_clips(vae, VidTwinLatents(own.structure, dynamics))
        return clips_psnr(decoded[:, :overlap], later[:, :overlap])

    moved, known = before.dynamics[:, :, frames - overlap :], own.dynamics[:, :, :overlap]
    difference = float((moved - known).square().mean().sqrt() / own.dynamics.std())
    return PlacesRow(overlap, difference, psnr(known), psnr(moved), psnr(again.dynamics[:, :, :overlap]))


def joins(num_frames: int, clip_frames: int, overlap: int) -> np.ndarray:
    """The frames at which a new clip begins to show: int (J,)."""
    windows = Windows(num_frames, clip_frames, overlap)
    lengths = [new.stop - new.start for new in map(windows.new, range(len(windows)))]
    return np.cumsum(lengths)[:-1]


def jump(frames: torch.Tensor, places: np.ndarray) -> float:
    """Mean absolute difference of frames uint8 (T, H, W, 3) from the one before, at these places over all others."""
    differences = frames.float().diff(dim=0).abs().mean((1, 2, 3)).numpy()  # (T - 1,), the first is at frame 1
    is_join = np.isin(np.arange(1, len(frames)), places)
    return float(differences[is_join].mean() / max(differences[~is_join].mean(), 1e-6))


def kink(path: np.ndarray, places: np.ndarray) -> float:
    """The same of the size of the second difference of a path (T, 2), which a join touches twice."""
    bend = np.linalg.norm(np.diff(path, n=2, axis=0), axis=1)  # (T - 2,), the first of frames 0 to 2
    is_join = np.isin(np.arange(2, len(path)), np.concatenate([places, places + 1]))
    at, inside = (part[np.isfinite(part)] for part in (bend[is_join], bend[~is_join]))
    return float(at.mean() / max(inside.mean(), 1e-6)) if len(at) and len(inside) else float("nan")


def measure_video(frames: torch.Tensor, class_name: str, clip_frames: int, overlap: int) -> VideoFigures:
    """Measure a video, uint8 (T, H, W, 3)."""
    verdict, places = oracle(frames), joins(len(frames), clip_frames, overlap)
    pieces: list[Verdict] = [oracle(piece) for piece in frames.split(clip_frames)]
    return VideoFigures(
        whole=confirms(verdict, class_name)["both"],
        by_clip=float(np.mean([confirms(piece, class_name)["both"] for piece in pieces])),
        content_kept=float(np.mean([agreement(later, former)["content"] for former, later in pairwise(pieces)])),
        last_as_first=agreement(pieces[-1], pieces[0])["content"],
        jump=jump(frames, places),
        kink=kink(verdict.path, places),
    )


def summarize(videos: LongVideos, figures: Sequence[VideoFigures]) -> LongVideosRow:
    """The row of a table."""
    columns = {name: np.array([getattr(one, name) for one in figures], float) for name in asdict(figures[0])}
    means = {name: float(columns[name].mean()) for name in ("whole", "by_clip", "content_kept", "last_as_first")}
    kinks = columns["kink"][np.isfinite(columns["kink"])]
    return LongVideosRow(
        videos.name,
        videos.overlap,
        len(figures),
        **means,
        jump=float(np.median(columns["jump"])),
        smooth=float((columns["jump"] <= GOAL).mean()),
        kink=float(np.median(kinks)) if len(kinks) else None,
    )


def real_videos(config: LongVideosConfig, held_out: Shapes) -> LongVideos:
    """Held-out swings that go on."""
    indices = range(config.videos_per_class * len(CLASS_NAMES))
    lengths = range(config.num_frames // held_out.num_frames)
    frames = [
        torch.cat([render(held_out.content(index), held_out.motion(index, later), held_out.size) for later in lengths])
        for index in indices
    ]
    return LongVideos("real swings", 0, torch.stack(frames), [CLASS_NAMES[held_out.label(index)] for index in indices])


def decoded_videos(pipe: VidTwinDiffusionPipeline, real: LongVideos) -> LongVideos:
    """Real swings through the autoencoder, clip by clip, all with the structure of the first clip."""
    clips = real.frames.split(pipe.vae.config.num_frames, dim=1)
    latents = [encode_clips(pipe.vae, clip) for clip in clips]
    videos = [decode_clips(pipe.vae, VidTwinLatents(latents[0].structure, clip.dynamics)) for clip in latents]
    return LongVideos("real dynamics, first structure", 0, torch.cat(videos, dim=1), real.class_names)


def batches(config: LongVideosConfig) -> Iterator[tuple[list[int], list[int]]]:
    """Classes and seeds of the videos, in batches; every row of the table begins with the same first clips."""
    count = config.videos_per_class * len(CLASS_NAMES)
    for start in range(0, count, BATCH_SIZE):
        indices = range(start, min(start + BATCH_SIZE, count))
        yield [index % len(CLASS_NAMES) for index in indices], [FIRST_SEED + index for index in indices]


def named(config: LongVideosConfig) -> list[str]:
    """The classes of the videos of `batches`."""
    return [CLASS_NAMES[label] for labels, _ in batches(config) for label in labels]


def chained_videos(
    pipe: VidTwinDiffusionPipeline, config: LongVideosConfig, overlap: int, strength: float
) -> LongVideos:
    """Videos as the pipeline samples them."""
    frames = []
    for labels, seeds in batches(config):
        out = pipe(
            labels,
            config.num_inference_steps,
            config.guidance_scale,
            generator=seeds,
            num_frames=config.num_frames,
            overlap=overlap,
            structure_strength=strength,
        )
        frames.append(unit_to_uint8(out.frames))
    name = f"structure drawn again, {strength:g} of the steps" if strength else "structure kept"
    return LongVideos(name, overlap, torch.cat(frames), named(config))


def unchained_videos(pipe: VidTwinDiffusionPipeline, config: LongVideosConfig) -> LongVideos:
    """Clips sampled for the structure of a first one, but without its dynamics, one after the other."""
    videos = []
    for labels, seeds in batches(config):
        settings = {"num_inference_steps": config.num_inference_steps, "guidance_scale": config.guidance_scale}
        clips = [pipe(labels, generator=seeds, output_type="latent", **settings).frames]
        for number in range(1, config.num_frames // pipe.vae.config.num_frames):
            later = [seed + number * FIRST_SEED for seed in seeds]
            clips.append(pipe(labels, generator=later, output_type="latent", structure=clips[0], **settings).frames)
        videos.append(torch.cat([decode_clips(pipe.vae, clip) for clip in clips], dim=1))  # (B, T, H, W, 3)
    return LongVideos("structure kept, clips not chained", 0, torch.cat(videos), named(config))


def all_videos(pipe: VidTwinDiffusionPipeline, held_out: Shapes, config: LongVideosConfig) -> Iterator[LongVideos]:
    """The videos of every row of the table."""
    real = real_videos(config, held_out)
    yield real
    yield decoded_videos(pipe, real)
    yield unchained_videos(pipe, config)
    for overlap in config.overlaps:
        yield chained_videos(pipe, config, overlap, 0.0)
    for strength in config.strengths:
        yield chained_videos(pipe, config, config.overlaps[len(config.overlaps) // 2], strength)


def sheet_rows(videos: LongVideos, figures: Sequence[VideoFigures]) -> list[tuple[str, torch.Tensor]]:
    """Some of the videos, those with a fault first."""
    order = sorted(range(len(figures)), key=lambda index: (figures[index].by_clip, -figures[index].jump))
    return [
        (
            f"{videos.name}, overlap {videos.overlap}: {videos.class_names[index]}, confirmed in "
            f"{figures[index].by_clip:.0%} of the clips, jump {figures[index].jump:.2f}",
            videos.frames[index],
        )
        for index in order[:SHEET_VIDEOS]
    ]


def execute(config: LongVideosConfig) -> None:
    """Sample, judge, print and write.

    Raises:
        UserError: if the pipeline samples other classes, or the videos are not some whole clips.
    """
    pipe = load_pipeline(config.pipeline, config.device)
    clip_frames = pipe.vae.config.num_frames
    if class_names(pipe) != CLASS_NAMES:
        raise UserError(f"{config.pipeline} samples other classes than moving shapes, which the oracle knows")
    if config.num_frames % clip_frames or config.num_frames == clip_frames:
        raise UserError(f"num_frames={config.num_frames} are not two or more whole clips of {clip_frames} frames")
    for overlap in config.overlaps:
        Windows.make(config.num_frames, overlap, pipe.transformer)
    pipe.set_progress_bar_config(disable=True)
    held_out = Shapes(clip_frames, pipe.vae.config.sample_size, "val")
    places = [measure_places(pipe.vae, held_out, overlap) for overlap in config.overlaps]
    print(PLACES_HEADER, *places, f"\n{HEADER}", sep="\n", flush=True)
    rows, pictures = [], []
    for videos in all_videos(pipe, held_out, config):
        figures = [
            measure_video(frames, name, clip_frames, videos.overlap)
            for frames, name in zip(videos.frames, videos.class_names, strict=True)
        ]
        rows.append(summarize(videos, figures))
        pictures += sheet_rows(videos, figures)
        print(rows[-1], flush=True)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    about = environment(resolve_device(config.device)) | {"settings": settings}
    write_json(config.json, "long_videos", about | {"places": [asdict(row) for row in places]}, rows)
    print(f"\nwrote {config.json}")
    if config.sheet is not None:
        save_png(sheet(pictures, columns=SHEET_COLUMNS, scale=2), config.sheet)
        print(f"wrote {config.sheet}")
