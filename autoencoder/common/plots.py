"""Reading the TensorBoard records of a run, and writing figures without a display."""

from pathlib import Path

import matplotlib
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, ScalarEvent

from autoencoder.common.errors import MissingFileError
from autoencoder.common.files import atomic_path
from autoencoder.common.run_folder import RunFolder

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

__all__ = ["pyplot", "read_scalars", "save_figure"]


def read_scalars(folder: str | Path, *tags: str) -> dict[str, list[ScalarEvent]]:
    """The scalars of a run folder's tensorboard/ by tag, each with its `step` and `value`.

    Raises:
        MissingFileError: if there are none at all, as of a run with another logger.
    """
    records = RunFolder(folder).tensorboard
    if not any(records.rglob("events.out.tfevents.*")):
        raise MissingFileError(
            f"{folder} holds no TensorBoard records: its run was begun without --logger tensorboard, or never began"
        )
    events = EventAccumulator(str(records), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: events.Scalars(tag) for tag in tags}


def save_figure(figure: pyplot.Figure, path: str | Path) -> None:
    """Write a figure as a picture, atomically, and close it."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
    pyplot.close(figure)
