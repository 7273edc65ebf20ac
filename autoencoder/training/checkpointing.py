"""When stage one's checkpoints are written, and how it ends when a signal asks it to."""

from contextlib import ExitStack

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from autoencoder.common.files import atomic_path
from autoencoder.common.processes import CommonStop
from autoencoder.common.run import RunFolder
from autoencoder.common.signals import StopSignals, take_signals_back
from autoencoder.training.config import TrainConfig


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints appear under their name only when they are whole and on disk; they load without unpickling code."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        """Write, then rename."""
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path, map_location="cpu", weights_only=True):
        """Read tensors and plain containers only."""
        return torch.load(path, map_location=map_location, weights_only=True)


class StepCheckpoint(Callback):
    """Saves every few steps, at the end, and where a signal ends the run: after the step in hand.

    A step that has a validation is saved after it, so that no record is lost. In the list of callbacks this one comes
    last, so that it sees the signals that come while the others work.

    Args:
        folder: of the run.
        config: of the run.
        signals: of the block in which the trainer runs.
    """

    def __init__(self, folder: RunFolder, config: TrainConfig, signals: StopSignals):
        self.folder, self.config, self.signals = folder, config, signals
        self._delay = ExitStack()

    def on_train_start(self, trainer, pl_module) -> None:
        """From here on signals wait for the end of a step, and Lightning's own handling of them is off.

        Its handlers save in the middle of a step, let processes wait for each other inside of a handler, and have every
        step of several processes wait for the device to hear of it.
        """
        take_signals_back(self.signals)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        self._common = CommonStop()
        self._delay.enter_context(self.signals.delayed())

    def on_train_end(self, trainer, pl_module) -> None:
        """From here on they do not."""
        self._delay.close()

    def on_exception(self, trainer, pl_module, exception) -> None:
        """As at the end."""
        self._delay.close()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """End a step without validation."""
        if trainer.global_step % self.config.validate_every and trainer.global_step != self.config.max_steps:
            self._end_step(trainer)

    def on_validation_end(self, trainer, pl_module) -> None:
        """End a step with validation."""
        self._end_step(trainer)

    def _end_step(self, trainer: Trainer) -> None:
        step = trainer.global_step
        signum = self._common.after_step(self.signals.signum)
        if signum or step % self.config.checkpoint_every == 0 or step == self.config.max_steps:
            self._save(trainer, step)
        if signum:
            self.signals.stop(signum)

    def _save(self, trainer: Trainer, step: int) -> None:
        if trainer.logger:
            trainer.logger.experiment.flush()
        trainer.save_checkpoint(self.folder.checkpoint_path(step), weights_only=False)
        if trainer.is_global_zero:
            self.folder.remove_old_checkpoints(self.config.keep_checkpoints)
