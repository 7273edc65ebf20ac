"""Settings in layers: a default preset, presets and YAML files in their order, then flags; the later ones win."""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from autoencoder.common.errors import UserError
from autoencoder.common.presets import nearest, preset_path

WORDS = {"true", "false", "yes", "no", "on", "off"}  # what a switch may be followed by
IS_FLAG = re.compile(r"-{1,2}[A-Za-z]")  # a negative number is a value


class Setting(NamedTuple):
    """A value as the text of a flag, and its source for messages: the flag, or the file and its key."""

    text: str
    source: str


class Names(NamedTuple):
    """Names of a command's settings, with dots and underscores.

    Attributes:
        settings: names that are both flags and keys of files.
        switches: those of them that are true or false.
        groups: keys that hold nested settings, such as `optimizer`.
        repeated: settings that are lists, by the flag that adds one value to them.
        takes_positionals: whether the command has positional arguments.
        passed_over: keys of files that belong to another command and are ignored.
    """

    settings: Collection[str]
    switches: Collection[str]
    groups: Collection[str]
    repeated: dict[str, str]
    takes_positionals: bool
    passed_over: Collection[str] = ()


class CommandLine(NamedTuple):
    """A parsed command line: the values of --config, the settings given by flags, and the positional arguments."""

    configs: list[str]
    flags: dict[str, Setting]
    positionals: list[str]


def flag(key: str) -> str:
    """A setting's flag, as help and messages spell it."""
    return f"--{key.replace('_', '-')}"


def take_apart(arguments: Sequence[str], names: Names) -> CommandLine:
    """Read a command line: flags with - or _, `--flag value` or `--flag=value`, switches with or without a value.

    Raises:
        UserError: for a flag that is not known or lacks its value.
    """
    configs, flags, positionals, added = [], {}, [], {}
    waiting = list(reversed(arguments))
    while waiting:
        argument = waiting.pop()
        if argument == "--":
            positionals += reversed(waiting)
            break
        if not IS_FLAG.match(argument):
            positionals.append(argument)
            continue
        name, given, value = argument.partition("=")
        key = _known(name, names)
        if not given:
            value = _following(name, key, names, waiting)
        if key == "config":
            configs.append(value)
        elif key in names.repeated:
            added.setdefault(key, []).append(_clean(value, flag(key)))
        else:
            flags |= _flattened(key, value, names, flag(key))
    flags |= {names.repeated[name]: Setting(json.dumps(values), flag(name)) for name, values in added.items()}
    return CommandLine(configs, flags, [_clean(value, "an argument") for value in positionals])


def _known(name: str, names: Names) -> str:
    key = name.lstrip("-").replace("-", "_")
    known = [*names.settings, *names.groups, *names.repeated, "config"]
    if key not in known or not name.startswith("--"):
        spelled = [name.replace("_", "-") for name in [*known, "help"]]
        raise UserError(f"there is no {name}{nearest(key.replace('_', '-'), spelled, '--{}')}")
    return key


def _following(name: str, key: str, names: Names, waiting: list[str]) -> str:
    """The value that a flag without = takes from the arguments after it."""
    there = bool(waiting) and not IS_FLAG.match(waiting[-1])
    if key in names.switches and (not there or (names.takes_positionals and waiting[-1].lower() not in WORDS)):
        return "true"
    if not there:
        raise UserError(f"{name} needs a value")
    return waiting.pop()


def _flattened(key: str, value: str, names: Names, source: str) -> dict[str, Setting]:
    """The settings of a flag, which may name a group and give a mapping."""
    if key not in names.groups:
        return {key: Setting(_clean(value, source), source)}
    try:
        mapping = yaml.safe_load(value)
    except yaml.YAMLError:
        mapping = value
    return dict(_leaves(mapping, names, source, key))


def config_path(value: str, stage: str | None) -> Path:
    """The file that a value of --config names: a file, or else a preset of the stage.

    Raises:
        UserError: if there is neither.
    """
    path = Path(_clean(value, "--config"))
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"--config {value} is a folder; a YAML file is wanted")
    if stage is None or path.suffix or len(path.parts) > 1:
        raise UserError(f"--config {value}: there is no such file")
    return preset_path(stage, value)


def read_layer(path: Path, names: Names) -> dict[str, Setting]:
    """The settings of a YAML file.

    Raises:
        UserError: naming the file, and the line or the key that does not fit.
    """
    return dict(_leaves(_content(path), names, str(path)))


def read_model_layer(config: Path, names: Names) -> dict[str, Setting]:
    """The settings of a saved model, from its config.json, as far as they are settings `model.NAME` of the command.

    Raises:
        UserError: if it cannot be read.
    """
    settings = {name: value for name, value in _content(config).items() if f"model.{name}" in names.settings}
    return dict(_leaves({"model": settings}, names, str(config)))


def _content(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}, line {line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML file: {str(error).splitlines()[0]}") from error


def _leaves(content: Any, names: Names, source: str, prefix: str = "") -> Iterator[tuple[str, Setting]]:
    if content is None:
        return
    if not isinstance(content, dict):
        where = f"{source}: {prefix}" if prefix and source != flag(prefix) else source
        raise UserError(f"{where} must hold settings by name, got {str(content)!r:.60}")
    for name, value in content.items():
        key = f"{prefix}.{name}".removeprefix(".").replace("-", "_")
        if key in names.groups:
            yield from _leaves(value, names, source, key)
        elif key in names.settings:
            yield key, Setting(_as_text(value, f"{source}: {key}"), f"{source}: {key}")
        elif key not in names.passed_over:
            known = [*names.settings, *names.groups]
            raise UserError(f"{source}: there is no setting {key}{nearest(key, known)}")


def _as_text(value: Any, source: str) -> str:
    """A value of a YAML file as a flag would give it."""
    if isinstance(value, str):
        return _clean(value, source)
    if value is None or isinstance(value, (bool, list, dict)):
        return json.dumps(value, default=str)
    return str(value).replace("nan", ".nan").replace("inf", ".inf")  # as YAML spells them


def _clean(value: str, source: str) -> str:
    if not value.strip():
        raise UserError(f"{source} is empty")
    if "\0" in value:
        raise UserError(f"{source}: {value!r} holds a NUL character, which no name can have")
    return value
