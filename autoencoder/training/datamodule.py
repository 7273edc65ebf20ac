"""The Lightning data module of stage one."""

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from autoencoder.common.signals import leave_signals_to_the_parent
from autoencoder.data import DataConfig
from autoencoder.data.stream import HeldOutClips, PositionSampler, TrainingClips, collate
from autoencoder.data.views import ViewChange
from autoencoder.training.exchange import Exchange, ExchangedClips
from autoencoder.training.noise import LatentNoise


class NoisyCollate:
    """`collate`, then replaces the clips' positions by their noise.

    It runs in the loader's workers, so that no device waits for noise, which is copied along with the clips.
    """

    def __init__(self, noise: LatentNoise):
        self.noise = noise

    def __call__(self, items: list[dict]) -> dict:
        batch = collate(items)
        batch["sample"]["noise"] = self.noise(batch["sample"].pop("position").tolist())
        return batch


class ClipDataModule(LightningDataModule):
    """Endless training batches from the trainer's step on, and a fixed choice of held-out clips.

    Args:
        config: where the clips come from.
        num_frames, size: a clip's frames, and its height and width in pixels.
        batch_size: over all processes.
        num_held_out: clips to validate on, spread evenly over the held-out part.
        seed: the run's seed.
        noise: draws the noise of a training batch.
        validation_batch_size: clips that a process validates at a time; its share of `batch_size` by default.
        exchange: chooses what the latents of a training sample are read from; None trains without exchange.
        augmentation: draws a change of every training clip; None changes none.
    """

    def __init__(
        self,
        config: DataConfig,
        num_frames: int,
        size: int,
        batch_size: int,
        num_held_out: int,
        seed: int,
        noise: LatentNoise,
        validation_batch_size: int | None = None,
        exchange: Exchange | None = None,
        augmentation: ViewChange | None = None,
    ):
        super().__init__()
        self.config, self.batch_size, self.seed = config, batch_size, seed
        self.noise, self.validation_batch_size = noise, validation_batch_size
        self.exchange, self.augmentation = exchange, augmentation
        self.train = config.build("train", num_frames, size)
        self.held_out = config.build("val", num_frames, size)
        count = min(num_held_out, len(self.held_out))
        self.held_out_indices = [place * len(self.held_out) // count for place in range(count)]

    def train_dataloader(self) -> DataLoader:
        """Batches of this process, starting at the step that the trainer has reached."""
        sampler = PositionSampler(
            len(self.train),
            self.batch_size,
            self.seed,
            start_step=self.trainer.global_step,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        clips = self._training_clips()
        return self._loader(clips, collate_fn=NoisyCollate(self.noise), batch_sampler=sampler)

    def _training_clips(self) -> TrainingClips:
        if self.exchange is None:
            return TrainingClips(self.train, self.seed, self.config.flip, self.augmentation)
        return ExchangedClips(self.train, self.seed, self.config.flip, self.exchange, self.augmentation)

    def val_dataloader(self) -> DataLoader:
        """This process's share of the held-out clips; shares may differ by one."""
        indices = self.held_out_indices[self.trainer.global_rank :: self.trainer.world_size]
        batch_size = self.validation_batch_size or max(1, self.batch_size // self.trainer.world_size)
        return self._loader(HeldOutClips(self.held_out, indices), collate_fn=collate, batch_size=batch_size)

    def _loader(self, clips, **kwargs) -> DataLoader:
        return DataLoader(
            clips,
            num_workers=self.config.num_workers,
            worker_init_fn=leave_signals_to_the_parent,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            persistent_workers=self.config.num_workers > 0,
            **kwargs,
        )
