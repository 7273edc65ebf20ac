"""Reconstruct a video file: python -m autoencoder.reconstruct in.mp4 out.mp4 --checkpoint DIR.

The output has the frames, time stamps (so a variable frame rate is kept), size and audio of the input; subtitles are
left out. `--structure a.mp4 --dynamics b.mp4 out.mp4` combines the structure of one video with the dynamics of another:
frames are paired by their number up to the end of the shorter video; size, time stamps and audio are those of a.mp4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoencoder.common import commands
from autoencoder.common.errors import UserError


@dataclass
class ReconstructConfig:
    """What to reconstruct, and how."""

    checkpoint: Path
    """Folder of the autoencoder: model/ of a run of `python -m autoencoder.train`."""
    structure: Path | None = None
    """Video whose structure latent is taken, instead of an input."""
    dynamics: Path | None = None
    """Video whose dynamics latent is taken, with `structure`."""
    part: Literal["both", "structure", "dynamics"] = "both"
    """Latent to decode from; the other one is left out."""
    fit: Literal["pad", "crop"] = "pad"
    """pad: the whole picture, padded to a square by repeating its edges, and cut back to the input's size; crop: the
    centre square, at the model's size."""
    overlap: int | None = None
    """Frames that neighbouring clips share and that are cross-faded; null is three eighths of a clip."""
    beside: bool = False
    """Put the original on the left of the reconstruction."""
    audio: bool = True
    """Copy the audio, without encoding it anew."""
    device: str = "auto"
    """Where to run, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""

    def __post_init__(self):
        if (self.structure is None) != (self.dynamics is None):
            raise UserError("--structure and --dynamics go together: give both, or an input instead")

    def split(self, paths: Sequence[Path]) -> tuple[Path, Path, Path]:
        """The video of the structure, that of the dynamics, and the output.

        Raises:
            UserError: if the number of paths does not fit.
        """
        expected = 2 if self.structure is None else 1
        if len(paths) != expected:
            names = "an input and an output" if expected == 2 else "the output alone, beside --structure and --dynamics"
            raise UserError(f"expected {names}, got {len(paths)} paths: {', '.join(map(str, paths))}")
        return self.structure or paths[0], self.dynamics or paths[0], paths[-1]


def main(argv: Sequence[str] | None = None) -> None:
    """Reconstruct a video, from command-line arguments."""
    parser = commands.make_parser(ReconstructConfig, __doc__, "autoencoder.reconstruct")
    parser.add_argument("paths", nargs="+", type=Path, help="input and output; with --structure the output alone")
    settings = parser.read(argv)
    config = commands.build(ReconstructConfig, settings)
    paths = config.split(settings.paths)

    from autoencoder.whole_videos.reconstruction import execute

    execute(config, *paths)


if __name__ == "__main__":
    commands.run_command(main)
