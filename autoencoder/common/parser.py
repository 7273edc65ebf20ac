"""The parser of a command: settings from presets, YAML files and flags, and a --help that shows the values in force."""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from autoencoder.common.errors import UserError
from autoencoder.common.layers import Names, Setting, config_path, flag, read_layer, read_model_layer, take_apart

set_parsing_settings(docstring_parse_attribute_docstrings=True)

HELP = ("-h", "--help")
OUTPUT_FOLDERS = {"output_dir", "out", "latent_cache"}  # settings that are checked before any work
OUTPUT_FILES = {"output", "sheet"}  # likewise
READ_FOLDERS = {"latent_cache"}  # of the folders those that may be there already, and are then only read
UNSET = ("help", "config")  # flags that are not settings
PLACEHOLDERS = {int: "N", float: "X", str: "TEXT", Path: "PATH", bool: "[true|false]"}
WORDS = {int: "a whole number", float: "a number", str: "text", Path: "a path", bool: "true or false", NoneType: "null"}


def members(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def in_words(kind: Any) -> str:
    """What a value of a type looks like, such as "a whole number or null"."""
    if len(kinds := members(kind)) > 1:
        return " or ".join(map(in_words, kinds))
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if get_origin(kind) is tuple and Ellipsis not in arguments:
        return (
            f"a list of {len(arguments)}, each {in_words(arguments[0])}, such as [{', '.join('1' for _ in arguments)}]"
        )
    if kind == list[str]:
        return "names with commas between them"
    if arguments:
        return f"a list, each {in_words(arguments[0])}"
    return WORDS.get(kind, str(kind))


def placeholder(kind: Any) -> str:
    """What stands for a value of a type in the help, such as N or {fp32,bf16}."""
    kind = next(member for member in members(kind) if member is not NoneType)
    if get_origin(kind) is Literal:
        return f"{{{','.join(map(str, get_args(kind)))}}}"
    if kind == list[str]:
        return "A,B,..."
    return PLACEHOLDERS.get(kind, "[...]" if get_args(kind) else "VALUE")


def as_yaml(value: Any) -> str:
    """A default as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_yaml, value))}]"
    return str(value)


class HelpFormatter(DefaultHelpFormatter):
    """Shows flags with hyphens and the values in force; indented paragraphs keep their line breaks."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        kind = getattr(action, "_typehint", None)
        if kind is None or not action.option_strings:
            return super()._format_action_invocation(action)
        return getattr(action, "shown", f"{flag(action.dest)} {placeholder(kind)}")

    def _expand_help(self, action: argparse.Action) -> str:
        text = " ".join((action.help or "").split())
        if action.required and action.option_strings:
            return f"{text} (required)"
        if action.option_strings and getattr(action, "_typehint", None) is not None:
            return f"{text} (default: {as_yaml(action.default)})"
        return text

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        def fill(paragraph: str) -> str:
            return (
                paragraph
                if paragraph.startswith(" ")
                else super(HelpFormatter, self)._fill_text(paragraph, width, indent)
            )

        return "\n\n".join(map(fill, text.strip("\n").split("\n\n")))


ONLY_BUILD: Sequence[str] = ("build the parser of a command, and stop",)  # told by its identity


class ParserBuilt(Exception):
    """Raised by `CommandParser.read(ONLY_BUILD)`, so that the `main` of a command hands out its parser."""

    def __init__(self, parser: "CommandParser"):
        super().__init__(parser.prog)
        self.parser = parser


class CommandParser(ArgumentParser):
    """Parser of a command's settings; `commands.make_parser` builds one."""

    stage: str | None = None
    repeated: dict[str, str] = {}  # settings that are lists, by the flag that adds one value to them
    passed_over: frozenset[str] = frozenset()  # keys of files that belong to another command and are ignored
    is_asked_for_help: bool = False

    def read(
        self,
        argv: Sequence[str] | None = None,
        base: Callable[[Namespace], Path | None] | None = None,
        model: Callable[[Namespace], Path | None] | None = None,
    ) -> Namespace:
        """The settings of a command, all layers merged; with --help, print that and exit.

        A wrong flag, key or value prints one line and exits with status 2.

        Args:
            argv: the arguments; None takes those of the process; `ONLY_BUILD` raises `ParserBuilt`.
            base: takes the settings of the other layers and returns the YAML file to put below them, or None.
            model: likewise returns the config.json of a saved model whose settings lie above that file, or None.
        """
        if argv is ONLY_BUILD:
            raise ParserBuilt(self)
        arguments = list(sys.argv[1:] if argv is None else argv)
        self.is_asked_for_help = any(part in HELP for part in arguments)
        try:
            line = take_apart([part for part in arguments if part not in HELP], self.names)
            layers = [read_layer(config_path(value, self.stage), self.names) for value in line.configs]
            layers.append(line.flags)
            if line.positionals and not self.names.takes_positionals:
                raise UserError(f"{line.positionals[0]!r} is neither a flag nor the value of one")
        except UserError as error:
            self.error(str(error))
        asked = self._parse(layers, line.positionals) if base or model else None
        below = [(base, read_layer), (model, read_model_layer)]
        found = [(path, read) for choose, read in below if choose and (path := choose(asked))]
        layers[:0] = [read(path, self.names) for path, read in found]
        if self.is_asked_for_help:
            self._show_help(layers[:-1])
        return self._parse(layers, line.positionals)

    @cached_property
    def names(self) -> Names:
        """Names of the settings, and which of them are switches or groups."""
        flags = {action.dest: action for action in self._actions if action.option_strings and action.dest not in UNSET}
        groups = {key for key in flags if any(other.startswith(f"{key}.") for other in flags)}
        settings = {key: getattr(action, "_typehint", None) for key, action in flags.items() if key not in groups}
        switches = {key for key, kind in settings.items() if bool in (kind, *get_args(kind))}
        positionals = any(not action.option_strings for action in self._actions)
        return Names(set(settings), switches, groups, self.repeated, positionals, self.passed_over)

    def _parse(self, layers: Sequence[dict[str, Setting]], positionals: Sequence[str]) -> Namespace:
        self.merged = {key: setting for layer in layers for key, setting in layer.items()}
        flags = [f"--{key}={self._text_of(key, setting)}" for key, setting in self.merged.items()]
        namespace = self.parse_args([*flags, *(["--", *positionals] if positionals else [])])
        for key, value in namespace.items():
            if any(isinstance(number, float) and not math.isfinite(number) for number in _numbers(value)):
                self.error(f"{self._source(key)} must be finite, got {value}")
        for key in OUTPUT_FOLDERS & set(self.names.settings):
            if namespace[key] is not None and (obstacle := _file_in_the_way(Path(namespace[key]))):
                self.error(f"{self._source(key)} must be a folder, or be made one, but {obstacle} is a file")
            if namespace[key] is not None and key not in READ_FOLDERS and (locked := _locked(Path(namespace[key]))):
                self.error(f"{self._source(key)} must be a folder that may be written to, and {locked} may not")
        for key in OUTPUT_FILES & set(self.names.settings):
            self._check_output_file(key, namespace[key])
        return namespace

    def _kind(self, key: str) -> Any:
        """The type of a setting; None where there is no such setting, or no type of it is known."""
        return next((getattr(action, "_typehint", None) for action in self._actions if action.dest == key), None)

    def _check_output_file(self, key: str, path: str | Path | None) -> None:
        if path is not None and Path(path).is_dir():
            self.error(f"{self._source(key)} must be a file, but {path} is a folder")
        if path is not None and (obstacle := _file_in_the_way(Path(path).parent)):
            self.error(f"{self._source(key)} must be a file in a folder, but {obstacle} is a file")

    def _text_of(self, key: str, setting: Setting) -> str:
        """The text of a setting as YAML has it: names with commas between them are a list where one is wanted."""
        text = setting.text.strip()
        if list[str] not in members(self._kind(key)) or text == "null" or text.startswith("["):
            return setting.text
        return json.dumps([name.strip() for name in text.split(",")])

    def _show_help(self, layers: Sequence[dict[str, Setting]]) -> NoReturn:
        in_force = {key: setting for layer in layers for key, setting in layer.items()}
        self.set_defaults({key: yaml.safe_load(self._text_of(key, setting)) for key, setting in in_force.items()})
        for action in self._actions:
            if action.dest in self.names.groups:
                action.help = argparse.SUPPRESS
            elif added := [name for name, target in self.repeated.items() if target == action.dest]:
                action.shown = f"{flag(added[0])} {added[0].upper()}"
        positionals = [action.dest.upper() for action in self._actions if not action.option_strings]
        self.usage = " ".join(["%(prog)s [--config NAME] [--setting value] ...", *positionals])
        self.print_help()
        self.exit()

    def _source(self, key: str) -> str:
        return self.merged[key].source if key in self.merged else flag(key)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong in one line, and exit with status 2."""
        print(f"error: {self._in_a_line(message)}", file=sys.stderr)
        self.exit(2)

    def _in_a_line(self, message: str) -> str:
        if match := re.match(r'Parser key "([^"]+)":', message):
            kind = self._kind(match[1])
            if kind is not None and match[1] in self.merged:
                return f"{self._source(match[1])} must be {in_words(kind)}, got {self.merged[match[1]].text!r}"
        if match := re.match(r"the following arguments are required: (.*)", message):
            return f"{', '.join(self._spelled(key) for key in match[1].split(', '))} must be given"
        return " ".join(message.split())

    def _spelled(self, key: str) -> str:
        added = next((name for name, target in self.repeated.items() if target == key), key)
        return flag(added) if key in self.names.settings else key.upper()


def _file_in_the_way(folder: Path) -> Path | None:
    """What keeps a folder from being made: itself or a parent that is a file."""
    return next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)


def _locked(folder: Path) -> Path | None:
    """The folder, or the parent in which it would be made, if nothing may be written there."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return None if there is None or os.access(there, os.W_OK | os.X_OK) else there


def _numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _numbers(part)
    else:
        yield value
