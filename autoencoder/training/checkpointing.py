"""Callbacks of stage one that write checkpoints and stop the run on a signal."""

from contextlib import ExitStack

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from autoencoder.common.files import atomic_path
from autoencoder.common.processes import CommonStop
from autoencoder.common.records import Records
from autoencoder.common.run import RunFolder
from autoencoder.common.signals import StopSignals, take_signals_back
from autoencoder.training.config import TrainConfig


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and loads them without running pickled code."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        """Write, then rename."""
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path, map_location="cpu", weights_only=True):
        """Read tensors and plain containers only."""
        return torch.load(path, map_location=map_location, weights_only=True)


class StepCheckpoint(Callback):
    """Saves every `checkpoint_every` steps and at the end; if a step is validated, after that, so no record is lost."""

    def __init__(self, folder: RunFolder, config: TrainConfig):
        self.folder, self.config = folder, config
        self._saved = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Save a step without validation."""
        if not has_validation(trainer, self.config):
            self._save_if_due(trainer)

    def on_validation_end(self, trainer, pl_module) -> None:
        """Save a step with validation."""
        self._save_if_due(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save the step that was done last, if it is not saved yet."""
        step = trainer.global_step
        if step == self._saved:
            return
        if trainer.is_global_zero:
            Records(trainer.loggers).flush()
        trainer.save_checkpoint(self.folder.checkpoint_path(step), weights_only=False)
        self._saved = step
        if trainer.is_global_zero:
            self.folder.remove_old_checkpoints(self.config.keep_checkpoints)

    def _save_if_due(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if step % self.config.checkpoint_every == 0 or step == self.config.max_steps:
            self.save(trainer)


class OrderlyStop(Callback):
    """Stops the run on a signal, after the current step, its validation and a checkpoint.

    It must be the last in the list of callbacks, so that it sees signals that come while the others work.

    Args:
        checkpoint: saves the step.
        signals: yielded by `catch_signals` around the trainer.
    """

    def __init__(self, checkpoint: StepCheckpoint, signals: StopSignals):
        self.checkpoint, self.signals = checkpoint, signals
        self._delay = ExitStack()

    def on_train_start(self, trainer, pl_module) -> None:
        """Delay signals to the end of a step, and turn Lightning's own handling of them off.

        Lightning's handlers save in the middle of a step and let processes wait for each other inside a handler, and
        with several processes its check for signals makes every step wait for the device.
        """
        take_signals_back(self.signals)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        self._common = CommonStop()
        self._delay.enter_context(self.signals.delayed())

    def on_train_end(self, trainer, pl_module) -> None:
        """Stop delaying signals."""
        self._delay.close()

    def on_exception(self, trainer, pl_module, exception) -> None:
        """Stop delaying signals."""
        self._delay.close()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """End a step without validation."""
        if not has_validation(trainer, self.checkpoint.config):
            self._end_step(trainer)

    def on_validation_end(self, trainer, pl_module) -> None:
        """End a step with validation."""
        self._end_step(trainer)

    def _end_step(self, trainer: Trainer) -> None:
        if signum := self._common.after_step(self.signals.signum):
            self.checkpoint.save(trainer)
            self.signals.stop(signum)


def has_validation(trainer: Trainer, config: TrainConfig) -> bool:
    """Whether the step that was done last is followed by a validation."""
    return trainer.global_step % config.validate_every == 0 or trainer.global_step == config.max_steps
