"""How the autoencoders that are compared were trained, by the config.yaml of the runs that left them."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoencoder.common.resuming import flat
from autoencoder.common.run_folder import RunFolder
from autoencoder.settings import AutoencoderSettings
from autoencoder.training.config import TrainConfig
from pipelines.shipping import settings_of

COMPANIONS = {"content": "companions: other clips of the same content", "clip": "companions: the same clip only"}
NOT_LEARNT = {"num_workers", "log_every", "checkpoint_every", "keep_checkpoints", "validate_every", "num_held_out"}
NUM_NAMED = 6  # settings that a line names at most


def settings_of_autoencoder(checkpoint: Path) -> Mapping[str, Any] | None:
    """The settings of the run that the folder of an autoencoder lies in; None where there are none."""
    run = RunFolder(checkpoint.absolute().parent)
    settings = settings_of(run) if run.config.is_file() else {}
    return settings if "exchange" in settings else None


def companions(checkpoint: Path) -> str:
    """What an autoencoder's training read structure from."""
    settings = settings_of_autoencoder(checkpoint)
    if settings is None:
        return "companions not known, for no config.yaml beside it tells"
    exchange = settings["exchange"]
    return COMPANIONS[exchange["companion"]] if exchange["share"] else "no companions"


def difference(first: Path, other: Path) -> str:
    """What two autoencoders were trained differently in, beside exchange, as a line about the second one's price."""
    settings = [settings_of_autoencoder(checkpoint) for checkpoint in (first, other)]
    if None in settings:
        return f"{other}: how it differs from the first one beside exchange is not known"
    # A setting that is newer than a run had its default in it, which leaves things as they were.
    defaults = flat(asdict(TrainConfig()) | {"model": asdict(AutoencoderSettings())})
    ours, theirs = (defaults | flat(run) for run in settings)
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    names = [name for name in names if not name.startswith("exchange.") and name not in NOT_LEARNT]
    if not names:
        return f"{other}: differs from the first one in nothing but exchange, whose price this is"
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return f"{other}: differs from the first one in more than exchange: {', '.join(names[:NUM_NAMED])}{more}"
