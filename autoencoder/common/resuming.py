"""Checking the settings with which a run is resumed against those that it began with."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from autoencoder.common.errors import UserError
from autoencoder.common.launchers import is_first_process
from autoencoder.common.parser import CommandParser
from autoencoder.common.run_folder import RunFolder

# Keys in config.yaml of earlier versions that nothing reads any more; they are ignored.
RETIRED = frozenset({"accumulate"})
PATHS = ("data_root", "held_out_root", "autoencoder", "init_from")


def announce_resumed(
    folder: RunFolder,
    settings: str,
    parser: CommandParser,
    may_change: Collection[str],
    same: Mapping[str, Callable[[Any, Any], bool]] | None = None,
) -> None:
    """Run `check_resumed` with the defaults of a command's parser; the first process prints its line."""
    defaults = parser.dump(parser.get_defaults(), skip_unset=False, skip_validation=True)
    line = check_resumed(folder, settings, defaults, may_change, same)
    if is_first_process():
        print(line)


def check_resumed(
    folder: RunFolder,
    settings: str,
    defaults: str,
    may_change: Collection[str],
    same: Mapping[str, Callable[[Any, Any], bool]] | None = None,
) -> str:
    """Compare the new settings of a resumed run with those in its config.yaml, before anything is written.

    Args:
        folder: the run's folder.
        settings: the new ones, as YAML.
        defaults: defaults of all settings, as YAML, for settings that an older config.yaml does not hold.
        may_change: settings, or groups of them, that do not affect what the run learns. `max_steps` may grow, too.
        same: by setting, a function that tells whether two different values mean the same.

    Returns:
        One line that says where the run goes on, and with which changes.

    Raises:
        UserError: if a setting changes the run; the message names all of them with both values.
    """
    saved, now, missing = (flat(yaml.safe_load(text)) for text in (folder.config.read_text(), settings, defaults))
    step = folder.newest_checkpoint()[1]
    changed, noted = [], []
    for name, value in now.items():
        before = saved.get(name, missing.get(name))
        if name == "resume" or value == before or _is_same(name, before, value, same or {}):
            continue
        if name == "max_steps" and value >= step:
            noted.append(f"max_steps={value} (was {before}){_schedule_note(now, value)}")
        elif name == "max_steps":
            changed.append(f"max_steps={value}, but {step} steps are done")
        elif name in may_change or name.split(".")[0] in may_change:
            noted.append(f"{name}={_shown(value)} (was {_shown(before)})")
        else:
            changed.append(f"{name}={_shown(value)}, but {_shown(before)} there")
    if changed:
        raise UserError(
            f"{folder.path} cannot be resumed with what makes another run of it: {'; '.join(changed)}. Leave that out "
            "to go on as it began, or begin a new run with another --output-dir"
        )
    where = f"from step {step}" if step else "from the start, for it holds no checkpoint yet"
    return f"resuming {folder.path} {where}{' with ' * bool(noted)}{', '.join(noted)}"


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their whole names, keys joined by dots, such as `optimizer.name`."""
    values = {}
    for key, value in settings.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values


def _is_same(name: str, before: Any, now: Any, same: Mapping[str, Callable[[Any, Any], bool]]) -> bool:
    if before is None or now is None:
        return False
    if name in PATHS and Path(before).resolve() == Path(now).resolve():
        return True
    return name in same and same[name](before, now)


def _schedule_note(settings: Mapping[str, Any], max_steps: int) -> str:
    """How a new number of steps changes the learning rate; empty if it does not."""
    if "cosine" not in [value for name, value in settings.items() if name.endswith("optimizer.schedule")]:
        return ""
    return f": from here on the learning rate follows the cosine that ends at step {max_steps}"


def _shown(value: Any) -> str:
    """A value as YAML has it, in one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).removesuffix("...\n").strip()
