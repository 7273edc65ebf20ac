"""The presets: named YAML files of settings, chosen with --config NAME."""

import re
from difflib import get_close_matches
from pathlib import Path

from autoencoder.common.errors import UserError

ROOT = Path(__file__).parents[2]
# Installed from a wheel they lie in the package `vidtwin`; in a clone, in a folder of their own.
PRESETS = INSTALLED if (INSTALLED := ROOT / "vidtwin/configs").is_dir() else ROOT / "configs"


def preset_names(stage: str) -> list[str]:
    """The presets of a stage, "autoencoder" or "generator"."""
    return sorted(path.stem for path in (PRESETS / stage).glob("*.yaml"))


def preset_path(stage: str, name: str) -> Path:
    """The file of a preset.

    Raises:
        UserError: if there is none of that name; the message lists those there are, the nearest first.
    """
    names = preset_names(stage)
    if name not in names:
        raise UserError(f"no preset {name!r} for the {stage}{nearest(name, names)}; there are {', '.join(names)}")
    return PRESETS / stage / f"{name}.yaml"


def preset_summary(stage: str, name: str) -> str:
    """The first sentence of the comment at the head of a preset's file."""
    lines = preset_path(stage, name).read_text().splitlines()
    comment = " ".join(
        line.lstrip("# ") for line in lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")]
    )
    return re.split(r"[.;] ", comment)[0].rstrip(".") + "."


def nearest(name: str, names: list[str], form: str = "{}") -> str:
    """The end of an error message that suggests the most similar of `names`; empty if none is similar.

    Args:
        name: that was given and does not exist.
        names: that exist.
        form: format string of the suggestion.
    """
    matches = get_close_matches(name, names, n=1, cutoff=0.5)
    return f": did you mean {form.format(matches[0])}?" if matches else ""
