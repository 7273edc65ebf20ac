"""Measuring samples by a config, for `python -m pipelines.evaluate`."""

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from autoencoder.checkpoint import fingerprint
from autoencoder.codec import decode_clips, encode_clips
from autoencoder.common.errors import UserError, first_few
from autoencoder.common.files import atomic_path
from autoencoder.common.precision import set_tf32
from autoencoder.common.processes import from_all, process_group
from autoencoder.common.progress import progress_bar
from autoencoder.common.seeding import generators
from autoencoder.data import UCF101, ClipDataset, Shapes, VideoFolder
from autoencoder.data.folder import VideoFiles
from autoencoder.data.shapes import shapes_of
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics.distance import VideoFeatureExtractor
from autoencoder.metrics.i3d import choose_i3d
from autoencoder.vidtwin import AutoencoderVidTwin
from pipelines import VidTwinDiffusionPipeline
from pipelines.checkpoint import load_pipeline
from pipelines.evaluate import EvaluateConfig
from pipelines.evaluation.clips import ClipMeasurer, RealClips, chunks_of
from pipelines.evaluation.report import OTHER_REAL, Repeat, card_metrics, measure_distances, table
from pipelines.evaluation.samples import Sampler, SampleStore, decode_in_whole_batches
from pipelines.evaluation.shares import class_shares
from pipelines.folders import pipeline_folder
from pipelines.model_card import add_metrics

LIBRARIES = ("torch", "torchvision", "torchmetrics", "diffusers", "numpy", "av")
PARTS = {"train": "train", "test": "val"}  # of the other data sets, for the splits of UCF-101


def real_clips(config: EvaluateConfig, num_frames: int, size: int) -> ClipDataset:
    """The data set to draw from, clips of `num_frames` frames of `size` x `size`.

    Raises:
        MissingFileError: if the data are not there; the message says what to put where.
    """
    options = {name: getattr(config, name) for name in ("sample_fps", "sampling", "decoder", "classes")}
    if config.split == "all":
        options |= {"fold": config.ucf101_fold, "allow_missing": config.allow_missing}
        clips = UCF101(config.data.root, num_frames, size, split="all", **options)
    elif config.dataset == "folder" and config.split == "test" and config.held_out_root is not None:
        # Its classes are those of the pipeline, so the training videos need not be there.
        clips = VideoFolder(config.held_out_root, num_frames, size, split="val", val_share=1.0, **options)
    else:
        clips = config.data.build(PARTS[config.split], num_frames, size)
    return chunks_of(clips) if config.take == "chunks" else clips


def class_ids(pipe: VidTwinDiffusionPipeline, clips: ClipDataset) -> list[int]:
    """The pipeline's id of every class of the data set; [0] if the clips are not labelled.

    Raises:
        UserError: if the pipeline does not know a class; the message names it and the known ones.
    """
    if clips.class_names:
        known = list((pipe.transformer.config.id2label or {}).values())
        folded = {name.casefold() for name in known}
        unknown = [name for name in clips.class_names if name.casefold() not in folded]
        if unknown and known:
            raise UserError(
                f"there is no class {first_few(map(repr, unknown), 10)}, of which there are real clips, in the "
                f"pipeline; it knows {first_few(map(repr, known), 10)}. Classes are matched by name; "
                "--classes takes some"
            )
        return [pipe.label(name) for name in clips.class_names]
    if pipe.transformer.config.num_classes != 1:
        raise UserError(
            f"the real clips are not labelled, but the pipeline has {pipe.transformer.config.num_classes} classes"
        )
    return [0]


def sampling_identity(pipe: VidTwinDiffusionPipeline, config: EvaluateConfig) -> dict[str, Any]:
    """Everything that a sample depends on, except its class, the seed and its place."""
    settings = {name: value for name, value in pipe.scheduler.config.items() if not name.startswith("_")}
    return {
        "vae_sha256": fingerprint(pipe.vae),
        "transformer_sha256": fingerprint(pipe.transformer),
        "scheduler": type(pipe.scheduler).__name__,
        "scheduler_config": settings,
        "num_inference_steps": config.num_inference_steps,
        "guidance_scale": config.guidance_scale,
        "guidance_interval": config.guidance_interval,
        "batch_size": config.batch_size,
        "dtype": str(pipe.transformer.dtype).removeprefix("torch."),
        "decoder_dtype": str(pipe.vae.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(pipe.device) if pipe.device.type == "cuda" else "CPU",
    }


def make_sampler(pipe: VidTwinDiffusionPipeline, config: EvaluateConfig, seed: int) -> Sampler:
    """A function that samples latents by classes and places; the noise depends on the seed and the place."""

    def sample(labels: Sequence[int], places: Sequence[int]) -> VidTwinLatents:
        return pipe(
            labels,
            config.num_inference_steps,
            config.guidance_scale,
            guidance_interval=config.guidance_interval,
            generator=generators(seed, "evaluate", places),
            output_type="latent",
        ).frames

    return sample


class Evaluation:
    """The evaluation on one process.

    Args:
        config: the evaluation's config.
        extractor: feature extractor; None leaves the distances out.
        rank, world_size: rank of this process, and number of processes.
    """

    def __init__(
        self, config: EvaluateConfig, extractor: VideoFeatureExtractor | None, rank: int = 0, world_size: int = 1
    ):
        self.config, self.rank, self.world_size = config, rank, world_size
        self.pipe = load_pipeline(config.pipeline, config.device, config.scheduler)
        self.pipe.set_progress_bar_config(disable=True)
        if self.pipe.device.type == "cuda":  # without TF32, so that machines agree
            set_tf32(False)
        size = self.pipe.vae.config
        self.clips = real_clips(config, size.num_frames, size.sample_size)
        self.ids = class_ids(self.pipe, self.clips)
        if len(self.clips) < config.num_samples:
            has_more = isinstance(self.clips, VideoFiles) and config.take == "videos"
            more = "; --take chunks takes several clips of a video" if has_more else ""
            raise UserError(f"num_samples={config.num_samples}, but the data set holds {len(self.clips)} clips{more}")
        self.identity = sampling_identity(self.pipe, config)
        names = (self.pipe.transformer.config.id2label or {}).values()
        shapes = shapes_of(names) if isinstance(self.clips, Shapes) else None
        self.measure_clips = ClipMeasurer(extractor, shapes, config.batch_size, self.pipe.device)

    def repeat(self, seed: int) -> Repeat:
        """Draw real clips, sample, and measure both; every process returns all findings.

        Raises:
            UserError: if too few clips can be read, or the kept samples are of another evaluation.
        """
        config = self.config
        draws = RealClips(self.clips, seed, config.batch_size, self.rank, self.world_size, config.num_workers)
        found = draws.take(config.num_samples, self._measure_both)
        if len(found) < config.num_samples:
            raise UserError(
                f"num_samples={config.num_samples}, but only {len(found)} of the {len(self.clips)} clips can be read; "
                f"one that cannot: {next(iter(draws.unreadable.values()))}"
            )
        repeat = Repeat(seed, *({index: pair[side] for index, pair in found.items()} for side in (0, 1)))
        if self.measure_clips.extract is not None and draws.num_left >= config.num_samples:
            repeat.other_real = draws.take(config.num_samples, self.measure_clips)
        repeat.unreadable = draws.unreadable
        if self.rank == 0:
            self._write_real_clips(repeat)
        repeat.samples = self._sample(seed, [self._label(index) for index in repeat.real])
        return repeat

    def class_name(self, index: int) -> str:
        """Class name of a real clip; "" without labels."""
        return self.clips.class_names[self.clips.label(index)] if self.clips.class_names else ""

    def _label(self, index: int) -> int:
        return self.ids[max(0, self.clips.label(index))]

    def _measure_both(self, frames: torch.Tensor) -> list:
        """Findings of real clips, each with those of its reconstruction."""
        reconstructed = decode_clips(self.pipe.vae, encode_clips(self.pipe.vae, frames))
        return list(zip(self.measure_clips(frames), self.measure_clips(reconstructed), strict=True))

    def _sample(self, seed: int, labels: list[int]) -> list:
        """Findings of all samples, in their order."""
        config = self.config
        folder = config.output_dir / "samples" / f"seed-{seed}" if config.keep_samples else None
        store = SampleStore(folder, self.identity | {"seed": seed}, labels, config.chunk_size)
        sample = make_sampler(self.pipe, config, seed)
        numbers = range(len(store.places))[self.rank :: self.world_size]
        bar = progress_bar(None, f"seed {seed}: samples", "chunk", show=self.rank == 0, over=numbers)
        mine = {}
        for number in bar:
            latents = store.get(number, sample, config.batch_size)
            mine[number] = self.measure_clips(decode_in_whole_batches(self.pipe.vae, latents, config.batch_size))
        by_chunk = {number: findings for part in from_all(mine) for number, findings in part.items()}
        return [finding for number in sorted(by_chunk) for finding in by_chunk[number]]

    def _write_real_clips(self, repeat: Repeat) -> None:
        """Write the list of the clips drawn, so that another evaluation can use the same."""
        draws = {"real": repeat.real, OTHER_REAL: repeat.other_real}
        lists = {
            name: [{"index": i, "clip": self._name(i), "class": self.class_name(i)} for i in drawn]
            for name, drawn in draws.items()
        }
        lists["unreadable"] = {str(index): repeat.unreadable[index] for index in sorted(repeat.unreadable)}
        with atomic_path(self.config.output_dir / f"real-clips-seed-{repeat.seed}.json") as temporary:
            temporary.write_text(json.dumps(lists, indent=1) + "\n")

    def _name(self, index: int) -> str:
        """The name of a clip: the last two parts of its path."""
        return "/".join(Path(self.clips.source(index)).parts[-2:])


def describe_protocol(evaluation: Evaluation, extractor: VideoFeatureExtractor | None) -> dict[str, Any]:
    """Everything that the numbers depend on, for the report."""
    config, model = evaluation.config, evaluation.pipe.vae.config
    choice = ("ucf101_fold", "allow_missing", "held_out_contents", "content_pattern")
    names = ("dataset", "split", *choice, "take", "sample_fps", "sampling")
    return {
        **{name: getattr(config, name) for name in names},
        "real_classes": config.classes,
        "data_root": None if config.dataset == "shapes" else str(config.data.root),
        "num_frames": model.num_frames,
        "size": model.sample_size,
        "num_samples": config.num_samples,
        "seeds": list(range(config.seed, config.seed + config.seeds)),
        "real_clips": "uniform over videos (or chunks) without replacement, random start",
        "classes": "of the samples: those of the real clips, one for one",
        "resize": "short side, bilinear, antialiased; then centre crop",
        "quantise": "both sides rounded to uint8 at the size of the model",
        "reconstructions": "the real clips through the autoencoder, posterior means",
        "ddof": 1,
        "kernel": "(x y / D + 1)^3, unbiased",
        "extractor": None if extractor is None else getattr(extractor, "identity", {"name": type(extractor).__name__}),
        "extractor_resize": "bilinear, half-pixel centres, not antialiased",
        "pipeline": str(config.pipeline),
        **evaluation.identity,
        "tf32": False,
        "processes": evaluation.world_size,
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in LIBRARIES},
    }


def make_report(
    evaluation: Evaluation,
    repeats: Sequence[Repeat],
    extractor: VideoFeatureExtractor | None,
    no_extractor: str | None = None,
) -> dict[str, Any]:
    """The content of evaluation.json; `no_extractor` says why there is none, unless distances were left out."""
    config, missing = evaluation.config, {}
    if no_extractor is not None:
        missing["distances"] = no_extractor
    elif extractor is not None and not all(repeat.has_other_real for repeat in repeats):
        missing[OTHER_REAL] = (
            f"two disjoint draws of {config.num_samples} take {2 * config.num_samples} readable clips, the data set "
            f"holds {len(evaluation.clips)}"
        )
    return {
        "distances": {} if extractor is None else measure_distances(repeats, extractor),
        "class_shares": class_shares(repeats, evaluation.class_name) if evaluation.measure_clips.shapes else {},
        "not_measured": missing,
        "unreadable": [len(repeat.unreadable) for repeat in repeats],
        "protocol": describe_protocol(evaluation, extractor),
    }


def run(
    config: EvaluateConfig, extractor: VideoFeatureExtractor | None, no_extractor: str | None = None
) -> dict[str, Any] | None:
    """Evaluate, and write evaluation.json.

    Args:
        config: the evaluation's config; its `i3d` is not looked at.
        extractor: feature extractor; None leaves the distances out.
        no_extractor: why there is none, for the report.

    Returns:
        The report in the first process, None in the others.
    """
    with process_group() as (rank, world_size):
        evaluation = Evaluation(config, extractor, rank, world_size)
        if rank == 0:  # the others write no sample before they have met it at the first draw
            for leftover in config.output_dir.glob("samples/*/.*.tmp*"):
                leftover.unlink()
        repeats = [evaluation.repeat(config.seed + number) for number in range(config.seeds)]
    if rank > 0:
        return None
    # Behind the group, for metrics would wait for the others.
    report = make_report(evaluation, repeats, extractor, no_extractor)
    with atomic_path(config.output_dir / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    if config.write_card:
        add_metrics(evaluation.pipe, pipeline_folder(config.pipeline), card_metrics(report))
    return report


def execute(config: EvaluateConfig) -> None:
    """Measure samples, print the table and write the report."""
    num_frames = AutoencoderVidTwin.load_config(pipeline_folder(config.pipeline) / "vae")["num_frames"]
    report = run(config, *choose_i3d(config.i3d, config.allow_unknown_i3d, num_frames))
    if report is not None:
        print(table(report))
        print(f"wrote evaluation.json and the lists of real clips to {config.output_dir}")
