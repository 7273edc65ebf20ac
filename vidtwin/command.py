"""The command `vidtwin`: every command of the packages under one name."""

import os
import runpy
import sys
from collections.abc import Callable, Sequence

from autoencoder.common.presets import nearest

COMMANDS = {
    "train-autoencoder": ("autoencoder.train", "train stage one, the video autoencoder"),
    "evaluate-autoencoder": ("autoencoder.evaluate", "PSNR, SSIM, LPIPS and rFVD of an autoencoder on videos"),
    "reconstruct": ("autoencoder.reconstruct", "reconstruct a video file, or join structure and dynamics of two"),
    "encode": ("autoencoder.encode", "encode a video file into a file of latents"),
    "decode": ("autoencoder.decode", "decode a file of latents into a video file"),
    "convert": ("autoencoder.convert", "make a published checkpoint a folder of this project"),
    "check-ucf101": ("autoencoder.data.ucf101", "check an unpacked UCF-101"),
    "train-generator": ("generator.train", "train stage two, the diffusion transformer"),
    "cache-latents": ("generator.cache_latents", "encode a data set for stage two"),
    "sample": ("pipelines.sample", "sample videos"),
    "evaluate": ("pipelines.evaluate", "FVD and KVD of samples"),
    "recombine": ("pipelines.recombine", "one latent given and the other sampled, on moving shapes"),
    "app": ("pipelines.app", "a page in the browser for all of this"),
    "ship": ("pipelines.ship", "make a trained pipeline one that is installed with the package"),
    "demo": ("pipelines.demo", "a trained pipeline shown at once, then the whole way, small"),
}


def describe() -> str:
    """The text of `vidtwin --help`, with a line per command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text} (python -m {module})" for name, (module, text) in COMMANDS.items()]
    head = "usage: vidtwin COMMAND ...\n\nVidTwin Diffusion. `vidtwin COMMAND --help` documents every setting of one:"
    options = [
        *("options:", "  -h, --help                show this help", "  --version                 show the version"),
        '  --print-completion SHELL  print what completes it in a shell: eval "$(vidtwin --print-completion bash)"',
    ]
    return "\n".join([head, "", *lines, "", *options])


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command of the packages, as `python -m MODULE` does; an unknown one ends with status 2.

    Args:
        argv: the command's name and its arguments; None takes those of the process.
    """
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        _print(describe)
    elif name == "--version":
        from vidtwin import __version__

        _print(lambda: __version__)
    elif name == "--print-completion":
        _print(lambda: _completion(arguments))
    elif name in COMMANDS:
        sys.argv = [name, *arguments]
        runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    else:
        remedy = nearest(name, [*COMMANDS]) or "; vidtwin --help lists all"
        print(f"error: there is no command {name!r}{remedy}", file=sys.stderr)
        sys.exit(2)


def _completion(shells: Sequence[str]) -> str:
    from vidtwin.completion import completion_script

    return completion_script(COMMANDS, " ".join(shells))


def _print(make: Callable[[], str]) -> None:
    """Print a text as a command would; a reader that has had enough of it, such as `head`, is no error."""
    from autoencoder.common.commands import run_command

    def say() -> None:
        try:
            print(make(), flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at its end

    run_command(say)
