"""Sample videos from a pipeline folder: `python -m pipelines.sample --pipeline DIR --class NAME --out DIR`.

With `--structure FILE` or `--dynamics FILE` one of the two latents is that of a video, and the other one is sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoencoder.common.commands import build, make_parser, run_command
from autoencoder.common.errors import UserError, check_least


@dataclass
class SampleConfig:
    """What to sample, and how."""

    pipeline: Path
    """Folder of the pipeline, as pipeline/ of a run of `python -m generator.train`; or else, where no folder of that
    name exists, the name of a shipped one, such as shapes."""
    classes: list[str]
    """Classes by name or 0-based id, or "all"; usually given as `--class NAME`, as often as there are classes. A class
    that is given twice gets twice as many videos."""
    out: Path
    """Folder for the videos, sheet.png and the grid; files of the same names are replaced, with a message."""
    num_videos: int = 1
    """Videos per class, with the seeds `seed`, `seed` + 1 and so on."""
    num_inference_steps: int = 50
    """Steps of the scheduler."""
    guidance_scale: float | tuple[float, float] = 5.0
    """Weight of classifier-free guidance, or "[STRUCTURE, DYNAMICS]" with a weight for each latent; 1 turns it off."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest noise level with guidance, from 0 (data) to 1 (noise): "[LOW, HIGH]"."""
    num_frames: int | None = None
    """Frames of a video; null takes those of a clip. A longer one is a chain of clips, each of which goes on from the
    end of the one before, and is written as they come; its transformer was trained with objective.history_share."""
    overlap: int | None = None
    """Frames that the next clip goes on from; null takes half a clip."""
    structure_strength: float = 0.0
    """Share of the steps in which the structure of a clip is drawn again from that of the clip before; 0 keeps it."""
    structure: Path | None = None
    """Video to take the structure latent from, or latents in a .safetensors file; the dynamics are sampled."""
    dynamics: Path | None = None
    """The same for the dynamics latent; the structure is sampled."""
    clip_fps: float | None = 8.0
    """Frames per second at which the video of a latent is read; null takes every frame."""
    clip_start: float = 0.0
    """Second of that video at which its clip starts."""
    seed: int = 0
    """Seed of each class's first video. A video depends on its class and seed alone, not on the other videos."""
    scheduler: str | None = None
    """Class name of a diffusers scheduler in place of the pipeline's own."""
    lora: Path | None = None
    """Folder of LoRA weights for this pipeline, as lora/ of a run with --lora-rank; its classes can be asked for."""
    lora_scale: float = 1.0
    """How far they change the pipeline: 0 leaves it as it is, but for the new classes."""
    fps: float = 8.0
    """Frames per second of the files, 0.01 to 1000; a GIF shows at most 50."""
    format: Literal["mp4", "gif", "webp"] = "mp4"
    """Ending of the files. A GIF has 256 colours and keeps to hundredths of a second; any browser plays all three."""
    upscale: Literal["nearest", "bicubic", "none"] = "nearest"
    """Makes small videos at least 256 pixels wide, by the smallest whole factor: "nearest" repeats pixels, which are
    taken back where such a file is read as data; "bicubic" smooths them; "none" writes videos as they are."""
    grid: bool = True
    """Write several videos as one, too, in which they move side by side: grid.mp4, with a row for every class where
    one has several, of the first 64. Not of videos longer than a clip."""
    batch_size: int = 8
    """Videos sampled at a time."""
    device: str = "auto"
    """Where to run, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""

    def __post_init__(self):
        if not self.classes:
            raise UserError("no class is given: name one with --class, or --class all")
        check_least(self, 1, "num_videos", "num_inference_steps", "batch_size", "num_frames", "overlap")
        if not self.fps > 0 or (self.clip_fps is not None and not self.clip_fps > 0):
            raise UserError(f"fps and clip_fps must be positive, got {self.fps} and {self.clip_fps}")
        if not 0.01 <= self.fps <= 1000:
            raise UserError(f"fps={self.fps}: videos have 0.01 to 1000 frames per second")
        if self.format == "gif" and self.fps > 50:
            raise UserError(f"fps={self.fps}: a GIF shows at most 50 frames per second, --format webp takes more")
        if self.clip_start < 0:
            raise UserError(f"clip_start must be a second from 0 on, got {self.clip_start}")
        if self.lora_scale != 1.0 and self.lora is None:
            raise UserError(f"lora_scale={self.lora_scale} scales LoRA weights: give their folder by --lora")
        if self.structure is not None and self.dynamics is not None:
            raise UserError("--structure and --dynamics are both given: there is nothing left to sample")


def main(argv: Sequence[str] | None = None) -> None:
    """Sample videos, from command-line arguments."""
    parser = make_parser(SampleConfig, __doc__, "pipelines.sample", repeated={"class": "classes"})
    config = build(SampleConfig, parser.read(argv))

    from pipelines.sampling import execute

    execute(config)


if __name__ == "__main__":
    run_command(main)
