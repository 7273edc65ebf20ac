"""Stage one as a LightningModule: optimisation, validation and what TensorBoard shows."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from diffusers.utils.torch_utils import randn_tensor
from lightning.pytorch import LightningModule
from torch import nn

from autoencoder.common.cost import count_flops
from autoencoder.common.errors import NumericalError, UserError
from autoencoder.common.pictures import add_moving_picture, to_uint8
from autoencoder.common.seeding import derive_seed, generators
from autoencoder.data import to_video
from autoencoder.data.stream import FileReport
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics import VideoPSNR, VideoSSIM
from autoencoder.training.config import TrainConfig
from autoencoder.training.discriminator import PatchDiscriminator
from autoencoder.training.losses import VidTwinLoss, adaptive_weight, discriminator_hinge, generator_hinge
from autoencoder.vidtwin import AutoencoderVidTwin

NUM_PICTURES = 4


def add_noise(latents: VidTwinLatents, max_level: float, noise: list[torch.Generator]) -> VidTwinLatents:
    """z + s * eps for both latents, with one level s per clip, uniform from 0 to `max_level`.

    Args:
        latents: of a batch.
        max_level: highest standard deviation of the noise.
        noise: one generator per clip.
    """
    levels = max_level * torch.stack([torch.rand((), generator=generator) for generator in noise])

    def add(tensor: torch.Tensor) -> torch.Tensor:
        eps = randn_tensor(tensor.shape, generator=noise, device=tensor.device, dtype=tensor.dtype)
        return tensor + levels.to(tensor).view(-1, *[1] * (tensor.ndim - 1)) * eps

    return latents.map(add)


def _as_list(value: Any) -> list:
    """Lightning gives a list only where there are several."""
    return value if isinstance(value, list) else [value]


class VidTwinModule(LightningModule):
    """Trains an `AutoencoderVidTwin`.

    One `training_step` is one optimiser step of the autoencoder and, once the GAN has started, one of the
    discriminator: the process's share of the batch goes through in micro-batches. All noise is drawn per sample from
    generators seeded by its position in the run, dropout by (seed, rank, step).

    The adaptive weight of the GAN and the batch statistics of the discriminator are those of a micro-batch; the weight
    is that of the micro-batches of all processes together.

    Args:
        model: the autoencoder.
        config: of the run.
        num_files: size of the training set, for the count of unreadable files.
        lpips: frozen LPIPS network as `VidTwinLoss` takes it, for a config with `lpips_weight`.

    Raises:
        ValueError: if the GAN is on and the clips are too small for its discriminator.
    """

    def __init__(self, model: AutoencoderVidTwin, config: TrainConfig, num_files: int, lpips: nn.Module | None = None):
        super().__init__()
        self.automatic_optimization = False
        self.model, self.config = model, config
        self.loss = VidTwinLoss(config.kl_weight, config.lpips_weight, lpips)
        self.discriminator = self._build_discriminator() if config.gan else None
        self.ema = EMAModel(model.parameters(), decay=config.ema_decay) if config.ema_decay else None
        self.files = FileReport(num_files, config.max_bad_share)
        self.psnr, self.ssim = VideoPSNR(), VideoSSIM()
        self._window_start, self._window_step = time.perf_counter(), 0

    def _build_discriminator(self) -> PatchDiscriminator:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.config.seed, "discriminator"))
            discriminator = PatchDiscriminator()
        if (size := self.model.config.sample_size) < discriminator.min_size:
            raise UserError(f"gan=True needs clips of at least {discriminator.min_size} pixels, sample_size is {size}")
        return discriminator

    def configure_optimizers(self):
        """Optimisers and schedules of the config: the autoencoder's, then the discriminator's; they step together."""
        autoencoder = nn.ModuleList([self.model, self.loss])
        built = [self.config.optimizer.build(autoencoder, self.config.max_steps, self.config.precision)]
        if self.discriminator:
            steps = self.config.max_steps - self.config.gan_start
            built.append(self.config.discriminator_optimizer.build(self.discriminator, steps, self.config.precision))
        optimizers, schedules = zip(*built, strict=True)
        return list(optimizers), list(schedules)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the moving average."""
        if self.ema:
            checkpoint["ema"] = self.ema.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the moving average.

        Raises:
            ValueError: if the checkpoint was written with the GAN or the average and this run is without, or the
                other way round.
        """
        has_gan = any(key.startswith("discriminator.") for key in checkpoint["state_dict"])
        for name, wanted, found in (("gan", self.discriminator, has_gan), ("ema_decay", self.ema, "ema" in checkpoint)):
            if (wanted is not None) != found:
                raise UserError(
                    f"the checkpoint was written {'with' if found else 'without'} {name}, this run has "
                    f"{name}={getattr(self.config, name)}: resume with what the run was started with"
                )
        if self.ema:
            self.ema.load_state_dict(checkpoint["ema"])
            self.ema.decay = self.config.ema_decay

    @contextmanager
    def ema_weights(self) -> Iterator[AutoencoderVidTwin]:
        """The model with the moving average for weights, if there is one, for as long as the block runs."""
        self._take_average()
        try:
            yield self.model
        finally:
            self._leave_average()

    def _take_average(self) -> None:
        if self.ema:
            self.ema.store(self.model.parameters())
            self.ema.copy_to(self.model.parameters())

    def _leave_average(self) -> None:
        if self.ema:
            self.ema.restore(self.model.parameters())

    def on_train_start(self) -> None:
        """Say what a step costs, without the networks of the loss."""
        if self.ema:
            self.ema.to(self.device)
        self._window_start, self._window_step = time.perf_counter(), self.global_step
        forward = count_flops(self.model, torch.empty(1, *self.model.video_shape, device="meta"))
        self.flops_per_step = 3 * forward * self.config.batch_size
        if self.logger and self.device.type != "cuda":
            self.logger.experiment.add_text("memory/peak", f"not measured on {self.device.type}", self.global_step)

    def training_step(self, batch: dict, batch_index: int) -> None:
        """One optimiser step.

        Raises:
            UnreadableVideo: if too many files are bad.
            FloatingPointError: if the loss or a gradient is not finite; all weights are left as they were.
        """
        self._report(self.files.update(batch))
        torch.manual_seed(derive_seed(self.config.seed, "dropout", self.global_rank, self.global_step))
        for optimizer in self.trainer.optimizers:
            optimizer.zero_grad()
        gan_share = self._gan_share()
        terms = self._accumulate_gradients(batch["sample"], gan_share)
        terms |= self._clip_gradients(terms["loss"], with_discriminator=gan_share > 0)
        learning_rates = self._step_optimizers(with_discriminator=gan_share > 0)
        self.log("loss", terms["loss"], prog_bar=True, logger=False)
        self.log("l1", terms["l1"], prog_bar=True, logger=False)
        is_last = self.global_step == self.config.max_steps
        if is_last or self.global_step % self.config.log_every == 0:
            self._log_step(terms, learning_rates)
        self.trainer.should_stop |= is_last  # Lightning validates the step at which it is told to stop

    def _gan_share(self) -> float:
        """How much of the GAN's weight counts in this step: 0 before its start, 1 after its warm-up."""
        steps = self.global_step + 1 - self.config.gan_start
        if self.discriminator is None or steps < 1:
            return 0.0
        return min(1.0, steps / max(1, self.config.gan_warmup_steps))

    def _accumulate_gradients(self, sample: dict, gan_share: float) -> dict[str, torch.Tensor]:
        """Backward over the micro-batches; returns the mean of the loss terms."""
        sizes = self.config.micro_batches(self.trainer.world_size)
        parts = zip(sample["video"].split(sizes), sample["position"].split(sizes), strict=True)
        without_sync = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        sums = {}
        for index, (frames, positions) in enumerate(parts):
            weight = len(frames) / sum(sizes)
            with nullcontext() if index + 1 == len(sizes) else without_sync():
                terms = self._backward(to_video(frames), positions.tolist(), gan_share, weight)
            sums = {name: sums.get(name, 0) + term * weight for name, term in terms.items()}
        return sums

    def _backward(
        self, video: torch.Tensor, positions: list[int], gan_share: float, share: float
    ) -> dict[str, torch.Tensor]:
        """Backward of a micro-batch that is this share of a batch, of the autoencoder and then of the discriminator.

        Returns the loss terms.
        """
        seed = self.config.seed
        posterior = self.model.encode(video).latent_dist
        latents = posterior.sample(generators(seed, "posterior", positions))
        if self.config.latent_noise:
            latents = add_noise(latents, self.config.latent_noise, generators(seed, "latent noise", positions))
        reconstruction = self.model.decode(latents).sample
        loss, terms = self.loss(reconstruction, video, posterior)
        if gan_share:
            gan, weight = self._gan_loss(loss, reconstruction)
            loss = loss + gan_share * weight * gan
            terms |= {"loss": loss.detach(), "gan": gan.detach(), "adaptive_weight": weight}
        self.manual_backward(loss * share)
        if gan_share:
            real, fake = (self.discriminator(clips).float() for clips in (video, reconstruction.detach()))
            discriminator_loss = discriminator_hinge(real, fake)
            self.manual_backward(discriminator_loss * share)
            logits = {"logits_real": real.detach().mean(), "logits_fake": fake.detach().mean()}
            terms |= {"discriminator_loss": discriminator_loss.detach()} | logits
        return terms

    def _gan_loss(self, loss: torch.Tensor, reconstruction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the autoencoder gets from the discriminator, and its weight after the warm-up."""
        self.discriminator.requires_grad_(False)
        gan = generator_hinge(self.discriminator(reconstruction).float())
        self.discriminator.requires_grad_(True)
        last_layer = self.model.decoder.proj_out.weight
        return gan, self.config.gan_weight * adaptive_weight(loss, gan, last_layer, self._mean_over_processes)

    def _mean_over_processes(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.trainer.strategy.reduce(tensor.contiguous(), reduce_op="mean")

    def _clip_gradients(self, loss: torch.Tensor, with_discriminator: bool) -> dict[str, torch.Tensor]:
        """Clip, and return the norms from before."""
        weights = [*self.model.parameters(), *self.loss.parameters()]
        norms = {"gradient_norm": nn.utils.clip_grad_norm_(weights, self.config.optimizer.max_grad_norm)}
        if with_discriminator:
            norms["discriminator_gradient_norm"] = nn.utils.clip_grad_norm_(
                self.discriminator.parameters(), self.config.discriminator_optimizer.max_grad_norm
            )
        if not all(value.isfinite() for value in (loss, *norms.values())):
            values = ", ".join(f"{name} {norm.item()}" for name, norm in norms.items())
            raise NumericalError(
                f"step {self.global_step + 1}: the loss is {loss.item()}, {values}; the run stops, the last checkpoint "
                "is good. A lower optimizer.learning_rate or precision=fp32 may help"
            )
        return norms

    def _step_optimizers(self, with_discriminator: bool) -> dict[str, float]:
        """Step optimisers, schedules and the moving average; returns the learning rates that were used."""
        optimizers, schedules = _as_list(self.optimizers()), _as_list(self.lr_schedulers())
        learning_rates = {"learning_rate": schedules[0].get_last_lr()[0]}
        optimizers[0].step()
        schedules[0].step()
        if with_discriminator:
            learning_rates["discriminator_learning_rate"] = schedules[1].get_last_lr()[0]
            optimizers[1].optimizer.step()  # by its wrapper, it would count as a step of the run
            schedules[1].step()
        if self.ema:
            self.ema.step(self.model.parameters())
        return learning_rates

    def _report(self, reasons: list[str]) -> None:
        for reason in reasons:
            self.print(f"skipped: {reason}")

    def _log_step(self, terms: dict[str, torch.Tensor], learning_rates: dict[str, float]) -> None:
        self._report(self.files.synchronize())
        self.files.check()
        means = {name: self.trainer.strategy.reduce(term, reduce_op="mean").item() for name, term in terms.items()}
        seconds = time.perf_counter() - self._window_start
        steps = self.global_step - self._window_step
        self._window_start, self._window_step = time.perf_counter(), self.global_step
        scalars = {f"train/{name}": value for name, value in (means | learning_rates).items()}
        scalars["train/unreadable_files"] = len(self.files.reasons)
        scalars["throughput/clips_per_second"] = steps * self.config.batch_size / seconds
        scalars["throughput/flops_per_second"] = steps * self.flops_per_step / seconds
        scalars["throughput/flops_per_step"] = self.flops_per_step
        if self.device.type == "cuda":
            scalars["memory/peak_bytes"] = torch.cuda.max_memory_allocated(self.device)
        if self.logger:
            self.logger.log_metrics(scalars, step=self.global_step)

    def on_validation_epoch_start(self) -> None:
        """Validate the moving average."""
        self._take_average()

    def validation_step(self, batch: dict, batch_index: int) -> None:
        """PSNR and SSIM in fp32, from the means of the posterior; moving pictures of the first clips."""
        for reason in batch["unreadable"].values():
            print(f"skipped in validation: {reason}")
        if batch["sample"] is None:
            return
        video = to_video(batch["sample"]["video"])
        with torch.autocast(self.device.type, enabled=False):  # bf16 would round what is measured
            latents = self.model.encode(video).latent_dist.mode()
            decoded = {part: self.model.decode(latents, part).sample.clamp(-1, 1) for part in self.model.parts}
        images = ((decoded["both"] + 1) / 2, (video + 1) / 2)
        self.psnr.update(*images)
        self.ssim.update(*images)
        if batch_index == 0 and self.logger and self.trainer.is_global_zero:
            for clip in range(min(NUM_PICTURES, len(video))):
                views = [view[clip] for view in (video, *decoded.values())]
                picture = to_uint8(torch.cat(views, dim=-1))
                fps = self.config.sample_fps or 25.0
                tag = f"clip {clip}: original, {', '.join(decoded)}"
                add_moving_picture(self.logger.experiment, tag, picture.cpu(), self.global_step, fps)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over all processes."""
        self._leave_average()  # before the checkpoint of this step
        scalars = {"val/psnr": self.psnr.compute().item(), "val/ssim": self.ssim.compute().item()}
        self.psnr.reset()
        self.ssim.reset()
        for name, value in scalars.items():
            self.log(name, value, prog_bar=True, logger=False, rank_zero_only=True)
        if self.logger:
            self.logger.log_metrics(scalars, step=self.global_step)
