"""Convert a checkpoint of the published reference: python -m autoencoder.convert checkpoint.ckpt out_dir.

The new folder is read by `AutoencoderVidTwin.from_pretrained`, and by the --checkpoint of every command.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.errors import ExistingFileError
from autoencoder.common.files import atomic_folder


@dataclass
class ConvertConfig:
    """Settings that cannot be read from the tensors of the checkpoint."""

    num_attention_heads: int | None = None
    """Heads of the backbone; null takes those of the published model of that width."""
    qformer_num_attention_heads: int | None = None
    """Heads of the Q-Former; null takes those of the published models."""

    @property
    def overrides(self) -> dict[str, int]:
        """The fields that are given."""
        return {name: value for name, value in vars(self).items() if value is not None}


def main(argv: Sequence[str] | None = None) -> None:
    """Convert a checkpoint, from command-line arguments."""
    parser = commands.make_parser(ConvertConfig, __doc__, "autoencoder.convert")
    parser.add_argument("checkpoint", type=Path, help="the reference's .ckpt or .safetensors file")
    parser.add_argument("output", type=Path, help="new folder")
    namespace = parser.read(argv)
    if namespace.output.exists():
        raise ExistingFileError(f"{namespace.output} exists already: give the name of a new folder")
    overrides = commands.build(ConvertConfig, namespace).overrides

    from autoencoder.checkpoint import fingerprint
    from autoencoder.vidtwin import AutoencoderVidTwin

    model = AutoencoderVidTwin.from_original(namespace.checkpoint, **overrides)
    with atomic_folder(namespace.output) as temporary:
        model.save_pretrained(temporary)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"wrote {count:,} parameters to {namespace.output}, fingerprint {fingerprint(model)[:12]}")


if __name__ == "__main__":
    commands.run_command(main)
