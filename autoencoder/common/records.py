"""The records of a run, by Lightning's loggers: scalars, texts and moving pictures of either stage.

A run that is resumed from a step goes on with the same records: what was recorded after that step is dropped from
TensorBoard's view and from the CSV file; Weights & Biases, which forgets nothing, has it twice in the same run.
"""

import csv
import io
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from autoencoder.common.errors import UserError
from autoencoder.common.files import atomic_path
from autoencoder.common.launchers import is_first_process
from autoencoder.common.pictures import Frames, add_moving_picture, gif_bytes, printable
from autoencoder.common.run_folder import RunFolder

PROJECT = "vidtwin"  # of Weights & Biases, unless WANDB_PROJECT names another


class TensorBoard(TensorBoardLogger):
    """Records in the folder tensorboard/ of the run."""

    def __init__(self, folder: RunFolder, step: int):
        super().__init__(folder.path, name=folder.tensorboard.name, version="", purge_step=step + 1 if step else 0)

    def text(self, tag: str, text: str, step: int) -> None:
        """Record Markdown."""
        self.experiment.add_text(tag, text, step)

    def settings(self, text: str, step: int) -> None:
        """Record the config.yaml."""
        self.text("config", f"```yaml\n{text}```", step)

    def moving_picture(self, tag: str, frames: Frames, step: int, fps: float) -> None:
        """Record frames uint8 (T, H, W, 3)."""
        add_moving_picture(self.experiment, tag, frames, step, fps)

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self.experiment.flush()

    def close(self) -> None:
        """End the records."""
        self.experiment.close()


class Wandb(WandbLogger):
    """Records at Weights & Biases, or with WANDB_MODE=offline in the folder wandb/ of the run; its id lies there, too.

    Raises:
        UserError: if Weights & Biases refuses the run, as without a login.
    """

    def __init__(self, folder: RunFolder, step: int):
        known = folder.wandb_id.read_text().strip() if folder.wandb_id.is_file() else ""
        place = folder.path.resolve()  # the process that writes may have another working directory
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        super().__init__(str(folder.path), save_dir=place, id=known or uuid.uuid4().hex, project=project)
        if is_first_process():
            self._begin()
            if not known:
                with atomic_path(folder.wandb_id) as temporary:
                    temporary.write_text(self.version)

    def _begin(self) -> None:
        import wandb

        try:
            _ = self.experiment
        except wandb.errors.Error as error:
            reason = str(error).splitlines()[0].rstrip(".")
            login = not isinstance(error, wandb.errors.UsageError) or "login" in str(error)
            remedy = ": log in by `wandb login`, or keep the records here by WANDB_MODE=offline" * login
            raise UserError(f"logger=wandb: {reason}{remedy}") from error
        except ValueError as error:  # a setting that wandb reads from the environment
            setting = ": ".join(map(str.strip, str(error).splitlines()[1:3]))
            raise UserError(f"logger=wandb: a WANDB_ variable is not what it may be: {setting}") from error

    def text(self, tag: str, text: str, step: int) -> None:
        """Record a fact about the run, in its config."""
        self.experiment.config.update({tag: text}, allow_val_change=True)

    def settings(self, text: str, step: int) -> None:
        """Record the config.yaml as the config of the run."""
        self.log_hyperparams(yaml.safe_load(text))

    def moving_picture(self, tag: str, frames: Frames, step: int, fps: float) -> None:
        """Record frames uint8 (T, H, W, 3) as a GIF, whose making needs no further package."""
        self.log_video(printable(tag), [io.BytesIO(gif_bytes(frames, fps))], step, format=["gif"])

    def flush(self) -> None:
        """Nothing: a process of its own writes them."""

    def close(self) -> None:
        """End the records, when all are sent or written."""
        self.experiment.finish()


class Csv(CSVLogger):
    """Scalars in the file csv/metrics.csv of the run, a line a record; texts are in config.yaml, pictures nowhere."""

    def __init__(self, folder: RunFolder, step: int):
        super().__init__(folder.path, name="", version=folder.csv.parent.name, flush_logs_every_n_steps=1)
        if is_first_process():
            self._take_up(folder.csv, folder.path / f".{folder.csv.name}", step)

    def _take_up(self, path: Path, earlier: Path, step: int) -> None:
        """Keep the lines up to a step, put aside until they are written: Lightning would begin an empty file."""
        if not path.is_file() and not earlier.exists():
            return
        rows = _rows_of(earlier if earlier.exists() else path)
        if not earlier.exists():
            path.replace(earlier)
        for row in rows:
            if int(row["step"]) <= step:
                self.experiment.log_metrics(row, int(row["step"]))
        self.save()
        earlier.unlink()

    def text(self, tag: str, text: str, step: int) -> None:
        """Nothing."""

    def settings(self, text: str, step: int) -> None:
        """Nothing."""

    def moving_picture(self, tag: str, frames: Frames, step: int, fps: float) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing: every line is written at once."""

    def close(self) -> None:
        """End the records."""
        self.save()


def _rows_of(path: Path) -> list[dict[str, str]]:
    """The lines of a file of `Csv`, without one that a full disk or a kill has cut."""
    try:
        text = path.read_text()
        lines = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]), restkey="too many"))
        if all(line["step"].isdecimal() and "too many" not in line for line in lines):
            return [{name: value for name, value in line.items() if value} for line in lines]
    except (KeyError, AttributeError, UnicodeDecodeError):
        pass
    raise UserError(f"{path} is not what --logger csv writes, a line a step: move it away, and the records begin anew")


LOGGER_CLASSES = {"tensorboard": TensorBoard, "wandb": Wandb, "csv": Csv}


class Records:
    """All loggers of a run as one; only the first process may call anything but `scalars`.

    Args:
        loggers: made by `open_loggers`; without any, nothing is recorded.
    """

    def __init__(self, loggers: Sequence[Logger] = ()):
        self.loggers = list(loggers)

    @property
    def shows_pictures(self) -> bool:
        """Whether a moving picture would be recorded at all."""
        return any(not isinstance(logger, Csv) for logger in self.loggers)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers by tag."""
        for logger in self.loggers:
            logger.log_metrics(values, step)

    def text(self, tag: str, text: str, step: int) -> None:
        """Record a fact about the run."""
        for logger in self.loggers:
            logger.text(tag, text, step)

    def settings(self, text: str, step: int) -> None:
        """Record the text of config.yaml."""
        for logger in self.loggers:
            logger.settings(text, step)

    def moving_picture(self, tag: str, frames: Frames, step: int, fps: float) -> None:
        """Record frames uint8 (T, H, W, 3), shown at `fps` frames per second."""
        for logger in self.loggers:
            logger.moving_picture(tag, frames, step, fps)

    def flush(self) -> None:
        """Let no record be lost with this process from here on."""
        for logger in self.loggers:
            logger.flush()

    def close(self) -> None:
        """End the records."""
        for logger in self.loggers:
            logger.close()


def open_loggers(names: Sequence[str], folder: RunFolder, step: int) -> list[Logger]:
    """The loggers of a run that starts or resumes after `step` steps.

    Args:
        names: of `LOGGER_CLASSES`.
        folder: the run's folder.
        step: steps that are done.

    Raises:
        UserError: if Weights & Biases refuses the run.
    """
    return [LOGGER_CLASSES[name](folder, step) for name in names]


def describe_loggers(names: Sequence[str], folder: RunFolder) -> str:
    """Where the curves of a run are, in a line."""
    places = {
        "tensorboard": f"shown by: tensorboard --logdir {folder.tensorboard}",
        "wandb": f"at Weights & Biases, or with WANDB_MODE=offline in {folder.wandb_id.parent}",
        "csv": f"in {folder.csv}, without videos",
    }
    return ", and ".join(places[name] for name in names)
