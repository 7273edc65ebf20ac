"""Completion of the command `vidtwin` in a shell: a script that names all commands, their flags and what these take.

The script is made once, by shtab; completing then runs no Python.
"""

from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import shtab

from autoencoder.common.errors import UserError
from autoencoder.common.layers import flag
from autoencoder.common.parser import ONLY_BUILD, CommandParser, ParserBuilt, members
from autoencoder.common.presets import preset_names


def completion_script(commands: Mapping[str, tuple[str, str]], shell: str) -> str:
    """The script that a shell sources.

    Args:
        commands: module and description of each.
        shell: one that shtab knows, such as "bash" or "zsh".

    Raises:
        UserError: if it knows no such shell.
    """
    if shell not in shtab.SUPPORTED_SHELLS:
        raise UserError(f"--print-completion takes {', '.join(shtab.SUPPORTED_SHELLS)}, got {shell!r}")
    parser = ArgumentParser("vidtwin")
    parser.add_argument("--version", action="store_true", help="show the version")
    parser.add_argument("--print-completion", choices=shtab.SUPPORTED_SHELLS, help="print the script of a shell")
    chosen = parser.add_subparsers()
    for name, (module, text) in commands.items():
        _describe(_parser_of(module), chosen.add_parser(name, help=text, description=text))
    return shtab.complete(parser, shell)


def _parser_of(module: str) -> CommandParser:
    """The parser that a command makes; the command itself is not run."""
    package = import_module(module)
    main = getattr(package, "main", None) or import_module(f"{module}.__main__").main
    try:
        main(ONLY_BUILD)
    except ParserBuilt as built:
        return built.parser
    raise TypeError(f"the main of {module} reads no arguments by a CommandParser")


def _describe(command: CommandParser, parser: ArgumentParser) -> None:
    """Give a plain parser the flags of a command, as its help spells them."""
    repeated = {target: name for name, target in command.repeated.items()}
    for action in command._actions:
        if action.dest == "help" or action.dest in command.names.groups:
            continue
        names = [flag(repeated.get(action.dest, action.dest))] if action.option_strings else [action.dest]
        is_switch = action.dest in command.names.switches
        added = parser.add_argument(*names, **({"nargs": "?"} if is_switch else {}), **_values(command, action))
        if Path in members(getattr(action, "_typehint", None) or action.type):
            added.complete = shtab.FILE


def _values(command: CommandParser, action: Action) -> dict[str, Any]:
    """The help of a setting, and what it may be where that is known."""
    text = " ".join((action.help or "").split())
    known = {"help": text.replace("%", "%%") if action.help != SUPPRESS else SUPPRESS}
    if action.dest == "config":
        return known | ({"choices": preset_names(command.stage)} if command.stage else {})
    kinds = [kind for kind in members(getattr(action, "_typehint", None)) if kind is not NoneType]
    if kinds and all(get_origin(kind) is Literal for kind in kinds):
        return known | {"choices": [str(value) for kind in kinds for value in get_args(kind)]}
    return known | ({"choices": ["true", "false"]} if kinds == [bool] else {})
