"""How a command reads its config: presets, YAML files and flags.

A command's config is a dataclass with a docstring under each field. Every field is a flag and a key of the YAML file,
and an unknown one is an error.
"""

import errno
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings

from autoencoder.common.errors import UserError, message_of
from autoencoder.common.signals import Stopped, catch_signals

set_parsing_settings(docstring_parse_attribute_docstrings=True)

# What the operating system may refuse without saying for which file: writing to a disk or beyond a quota that is full.
NAMELESS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

PRESETS = Path(__file__).parents[2] / "configs"


def preset_path(stage: str, name: str) -> Path:
    """The file of a preset.

    Raises:
        ValueError: if there is none of that name; the message lists those there are.
    """
    path = PRESETS / stage / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise UserError(f"no preset {name!r} for the {stage}: there are {known}")
    return path


def make_parser(
    config_class: type,
    description: str,
    groups: dict[str, type] | None = None,
    partial_groups: dict[str, tuple[type, set[str]]] | None = None,
) -> ArgumentParser:
    """A parser for a config dataclass.

    Args:
        config_class: dataclass whose fields become flags and YAML keys.
        description: the first lines of `--help`.
        groups: further classes whose constructors become nested keys, such as `{"model": AutoencoderVidTwin}`.
        partial_groups: the same for classes that the command builds itself, with the arguments that it finds out and
            that are therefore no keys; their keys stay a namespace.
    """
    parser = ArgumentParser(description=description)
    parser.add_argument(
        "--config", action="config", help="YAML file, or the name of a preset; may be given several times"
    )
    parser.add_class_arguments(config_class)
    for key, group in (groups or {}).items():
        parser.add_class_arguments(group, key)
    for key, (group, found_out) in (partial_groups or {}).items():
        parser.add_class_arguments(group, key, skip=found_out, instantiate=False)
    return parser


def normalized(argv: Sequence[str] | None, stage: str | None = None, bare_flags: Sequence[str] = ()) -> list[str]:
    """Bring command-line arguments into the parser's form.

    Flags may be written with - or _; a flag of `bare_flags` may stand without its "true"; `--config NAME` becomes the
    file of that preset unless a file of that name exists.
    """
    arguments = []
    for argument in sys.argv[1:] if argv is None else argv:
        if match := re.match(r"--([\w.-]+)(.*)", argument):
            argument = f"--{match[1].replace('-', '_')}{match[2]}"
        arguments.append(argument)
    for index, argument in enumerate(arguments):
        following = arguments[index + 1] if index + 1 < len(arguments) else "--"
        if argument.startswith("--") and argument[2:] in bare_flags and following.startswith("--"):
            arguments[index] = f"{argument}=true"
        if argument == "--config" and stage and not Path(following).is_file():
            arguments[index + 1] = str(preset_path(stage, following))
        if argument.startswith("--config=") and stage and not Path(name := argument.split("=", 1)[1]).is_file():
            arguments[index] = f"--config={preset_path(stage, name)}"
    return arguments


def flag_value(arguments: Sequence[str], flag: str) -> str | None:
    """The value that a flag was given, or None, before the arguments are parsed."""
    for index, argument in enumerate(arguments):
        if argument == f"--{flag}" and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(f"--{flag}="):
            return argument.split("=", 1)[1]
    return None


def build(config_class: type, namespace: Any) -> Any:
    """The config dataclass from a parsed and instantiated namespace."""
    return config_class(**{field.name: namespace[field.name] for field in fields(config_class)})


def start_command(module: str, arguments: Sequence[str]) -> None:
    """Run a command of the project in a process of its own, as a person would.

    Raises:
        UserError: if it fails; it has said why.
    """
    print(f"\n$ python -m {' '.join([module, *arguments])}", flush=True)
    code = subprocess.run([sys.executable, "-m", module, *arguments]).returncode
    if code:
        raise UserError(f"python -m {module} ended with code {code}; what it printed above says why")


def run_command(main: Callable[[], None]) -> None:
    """Run a command; what its user can mend ends it with one line, anything else with a traceback.

    One line is for `UserError`, for what the operating system refuses by the name of a file, such as a full disk, and
    for a signal that asks to end, whose exit code is 128 + its number.
    """
    try:
        with catch_signals():
            main()
    except Stopped as stopped:
        stopped.tell()
        raise
    except UserError as error:
        sys.exit(f"error: {message_of(error)}")
    except OSError as error:
        if error.filename is None and error.errno not in NAMELESS:
            raise
        sys.exit(f"error: {error}")
