"""Encode a video file: python -m autoencoder.encode in.mp4 out.safetensors --checkpoint DIR.

The file holds the latents of the whole video and all else that `python -m autoencoder.decode` needs to restore it,
except for the audio.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoencoder.common import commands
from autoencoder.common.errors import UserError


@dataclass
class EncodeConfig:
    """How to encode."""

    checkpoint: Path
    """Folder of the autoencoder: model/ of a run of `python -m autoencoder.train`."""
    fit: Literal["pad", "crop"] = "pad"
    """pad: the whole picture, padded to a square by repeating its edges; crop: the centre square."""
    overlap: int | None = None
    """Frames that neighbouring clips share and that decoding cross-fades; null is three eighths of a clip."""
    device: str = "auto"
    """Where to run, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""


def main(argv: Sequence[str] | None = None) -> None:
    """Encode a video, from command-line arguments."""
    parser = commands.make_parser(EncodeConfig, __doc__, "autoencoder.encode")
    parser.add_argument("input", type=Path, help="video file")
    parser.add_argument("output", type=Path, help="file for the latents; its name ends in .safetensors")
    namespace = parser.read(argv)
    config = commands.build(EncodeConfig, namespace)
    if namespace.output.suffix != ".safetensors":
        raise UserError(f"{namespace.output}: the name of the file must end in .safetensors")

    from autoencoder.checkpoint import load_autoencoder
    from autoencoder.common.progress import progress_bar
    from autoencoder.whole_videos.clips import chosen_overlap
    from autoencoder.whole_videos.encoded_video import encode_video
    from autoencoder.whole_videos.video_file import open_file

    model = load_autoencoder(config.checkpoint, config.device)
    overlap = chosen_overlap(config.overlap, model.config.num_frames)
    video = open_file(namespace.input)
    with progress_bar(video.num_frames, "encoding", "frame") as bar:
        encoded = encode_video(model, video, config.fit, overlap, bar.update)
    encoded.save(namespace.output)
    print(f"wrote {len(encoded.latents)} clips of {len(encoded.times)} frames to {namespace.output}")


if __name__ == "__main__":
    commands.run_command(main)
