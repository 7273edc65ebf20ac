"""A page to sample, recombine, reconstruct and walk in a browser: `python -m pipelines.app --pipeline DIR`.

The page is for this machine alone unless --host says otherwise. It sends nothing to anybody else, and keeps nothing
that is uploaded.
"""

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common.commands import build, make_parser, run_command
from autoencoder.common.config import Precision
from autoencoder.common.errors import UserError

PORTS = range(0, 2**16)


@dataclass
class AppConfig:
    """What the page shows, to whom, and what it takes."""

    pipeline: Path
    """Folder of the pipeline, as pipeline/ of a run of `python -m generator.train`; or else, where no folder of that
    name exists, the name of a shipped one, such as shapes."""
    host: str = "127.0.0.1"
    """Address to listen at. The default one is seen from this machine alone; 0.0.0.0 is all addresses, whose visitors
    need no password."""
    port: int = 7860
    """Port to listen at; 0 takes any free one, and the page's address is printed."""
    max_seconds: float = 60.0
    """Longest video that may be uploaded, in seconds."""
    max_megabytes: float = 50.0
    """Largest file that may be uploaded, in megabytes of 2^20 bytes."""
    device: str = "auto"
    """Where to run, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""
    precision: Precision = "fp32"
    """Arithmetic of both models: "fp32", in which a seed gives the video of `python -m pipelines.sample`; "bf16"; or
    "auto", which takes bf16 where the processor or GPU multiplies it natively."""

    def __post_init__(self):
        if self.port not in PORTS:
            raise UserError(f"port must be in 0 to {PORTS.stop - 1}, got {self.port}")
        for name in ("max_seconds", "max_megabytes"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} must be positive and finite, got {getattr(self, name)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until a signal ends it, from command-line arguments."""
    parser = make_parser(AppConfig, __doc__, "pipelines.app")
    config = build(AppConfig, parser.read(argv))
    if importlib.util.find_spec("gradio") is None:
        raise UserError('the page is made with gradio, which is not installed: pip install "vidtwin[app]"')

    from pipelines.page.server import serve

    serve(config)


if __name__ == "__main__":
    run_command(main)
