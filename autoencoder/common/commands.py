"""Parsing a command's config from presets, YAML files and flags, and running the command.

A command's config is a dataclass with a docstring under each field. Every field is a flag and a key of the YAML file,
and an unknown one is an error.
"""

import subprocess
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from autoencoder.common.chatter import silence_chatter
from autoencoder.common.errors import UserError, message_of
from autoencoder.common.files import DISK_ERRORS
from autoencoder.common.parser import CommandParser, HelpFormatter
from autoencoder.common.presets import PRESETS, preset_names, preset_path, preset_summary
from autoencoder.common.signals import Stopped, catch_signals

__all__ = ["PRESETS", "build", "make_parser", "preset_path", "run_command", "start_command"]


def make_parser(
    config_class: type,
    description: str,
    command: str | None = None,
    stage: str | None = None,
    groups: Mapping[str, type] | None = None,
    repeated: Mapping[str, str] | None = None,
    passed_over: Collection[str] = (),
) -> CommandParser:
    """A parser for a config dataclass.

    Args:
        config_class: dataclass whose fields become flags and YAML keys.
        description: the first lines of `--help`.
        command: the module that is run; None is that of `config_class`.
        stage: "autoencoder" or "generator", whose presets `--config` takes; None takes files alone.
        groups: further dataclasses, whose fields become nested keys, such as `{"model": AutoencoderSettings}`; they
            stay a namespace.
        repeated: fields that are lists, by the flag that adds one value to them, such as `{"class": "classes"}`.
        passed_over: keys of presets and files that belong to another command and are ignored.
    """
    program = f"python -m {command or config_class.__module__}"
    parser = CommandParser(
        prog=program, description=_description(description, stage), formatter_class=HelpFormatter, print_config=None
    )
    parser.stage, parser.repeated, parser.passed_over = stage, dict(repeated or {}), frozenset(passed_over)
    kinds = "a preset's name or a YAML file" if stage else "a YAML file"
    parser.add_argument(
        "--config", default=SUPPRESS, metavar="NAME", help=f"{kinds}; several times if need be, the later ones on top"
    )
    parser.add_class_arguments(config_class)
    for key, group in (groups or {}).items():
        parser.add_class_arguments(group, key, instantiate=False)
    return parser


def _description(text: str, stage: str | None) -> str:
    rules = "Settings come from --config and from flags, which win wherever they stand; unknown ones are errors."
    if stage is None:
        return f"{text.strip()}\n\n{rules}"
    width = max(map(len, preset_names(stage)))
    presets = "\n".join(f"  {name:{width}}  {preset_summary(stage, name)}" for name in preset_names(stage))
    return f"{text.strip()}\n\n{rules} Presets:\n\n{presets}"


def build(config_class: type, namespace: Any) -> Any:
    """The config dataclass from a parsed and instantiated namespace."""
    return config_class(**{field.name: namespace[field.name] for field in fields(config_class)})


def start_command(module: str, arguments: Sequence[str]) -> None:
    """Run a command of the project in a process of its own, as from a shell.

    A signal that stops this process is passed on to the command, whose end is awaited.

    Args:
        module: such as "autoencoder.train".
        arguments: command-line arguments.

    Raises:
        UserError: if the command fails; it has printed why.
    """
    print(f"\n$ python -m {' '.join([module, *arguments])}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", module, *arguments])
    try:
        code = process.wait()
    except Stopped as stopped:
        process.send_signal(stopped.signum)
        process.wait()
        raise
    if code:
        raise UserError(f"python -m {module} ended with code {code}; what it printed above says why")


def run_command(main: Callable[[], None]) -> None:
    """Run a command; an error that its user can mend prints one line, any other a traceback.

    One line is printed for `UserError`, for an `OSError` that names a file or tells of a full disk (exit code 1), and
    for a signal that asks to end (exit code 128 + its number).
    """
    silence_chatter()
    try:
        with catch_signals():
            main()
    except Stopped as stopped:
        stopped.tell()
        raise
    except UserError as error:
        sys.exit(f"error: {message_of(error)}")
    except OSError as error:
        if error.filename is None and error.errno not in DISK_ERRORS:  # these come without the name of a file
            raise
        sys.exit(f"error: {error}")
