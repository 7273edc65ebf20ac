"""Decode the latents of a video: python -m autoencoder.decode in.safetensors out.mp4 --checkpoint DIR.

The input is a file that `python -m autoencoder.encode` wrote with the same autoencoder. The frames are those that
`python -m autoencoder.reconstruct` makes, bit for bit before they are compressed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from autoencoder.common import commands


@dataclass
class DecodeConfig:
    """How to decode."""

    checkpoint: Path
    """Folder of the autoencoder that encoded the video."""
    part: Literal["both", "structure", "dynamics"] = "both"
    """Latent to decode from; the other one is left out."""
    audio_of: Path | None = None
    """Video file whose audio is copied, such as the one that was encoded; null makes a silent video."""
    device: str = "auto"
    """Where to run, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""


def main(argv: Sequence[str] | None = None) -> None:
    """Decode a video, from command-line arguments."""
    parser = commands.make_parser(DecodeConfig, __doc__, "autoencoder.decode")
    parser.add_argument("input", type=Path, help="file that `python -m autoencoder.encode` wrote")
    parser.add_argument("output", type=Path, help="video file")
    namespace = parser.read(argv)
    config = commands.build(DecodeConfig, namespace)

    from autoencoder.checkpoint import load_autoencoder
    from autoencoder.common.progress import progress_bar
    from autoencoder.whole_videos.encoded_video import EncodedVideo, decode_video
    from autoencoder.whole_videos.video_file import check_output, open_writer

    check_output(namespace.output, *filter(None, [config.audio_of]))
    encoded = EncodedVideo.load(namespace.input)
    frames = decode_video(load_autoencoder(config.checkpoint, config.device), encoded, config.part)
    width, height = encoded.fit.output_size
    form = replace(encoded.format, width=width, height=height)
    with open_writer(namespace.output, form, config.audio_of) as writer:
        for frame in progress_bar(len(encoded.times), "decoding", "frame", over=frames):
            writer.write(*frame)
    print(f"wrote {len(encoded.times)} frames to {namespace.output}")


if __name__ == "__main__":
    commands.run_command(main)
