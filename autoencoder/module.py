"""Stage one as a LightningModule: optimisation, validation and what TensorBoard shows."""

import time
from contextlib import nullcontext

import torch
from lightning.pytorch import LightningModule

from autoencoder.config import TrainConfig
from autoencoder.cost import count_flops
from autoencoder.data import to_video
from autoencoder.data.stream import FileReport
from autoencoder.losses import VidTwinLoss
from autoencoder.metrics import VideoPSNR, VideoSSIM
from autoencoder.pictures import add_moving_picture, to_uint8
from autoencoder.seeding import derive_seed, generators
from autoencoder.vidtwin import PARTS, AutoencoderVidTwin

NUM_PICTURES = 4


class VidTwinModule(LightningModule):
    """Trains an `AutoencoderVidTwin`.

    One `training_step` is one optimiser step: the process's share of the batch goes through in micro-batches. All
    noise is drawn per sample from generators seeded by its position in the run, dropout by (seed, rank, step).

    Args:
        model: the autoencoder.
        config: of the run.
        num_files: size of the training set, for the count of unreadable files.
    """

    def __init__(self, model: AutoencoderVidTwin, config: TrainConfig, num_files: int):
        super().__init__()
        self.automatic_optimization = False
        self.model, self.config = model, config
        self.loss = VidTwinLoss(config.kl_weight)
        self.files = FileReport(num_files, config.max_bad_share)
        self.psnr, self.ssim = VideoPSNR(), VideoSSIM()
        self._window_start, self._window_step = time.perf_counter(), 0

    def configure_optimizers(self):
        """Optimiser and schedule of the config; the schedule steps with the optimiser."""
        optimizer, schedule = self.config.optimizer.build(self, self.config.max_steps)
        return [optimizer], [schedule]

    def on_train_start(self) -> None:
        """Say what a step costs."""
        self._window_start, self._window_step = time.perf_counter(), self.global_step
        forward = count_flops(self.model, torch.empty(1, *self.model.video_shape, device="meta"))
        self.flops_per_step = 3 * forward * self.config.batch_size
        if self.logger and self.device.type != "cuda":
            self.logger.experiment.add_text("memory/peak", f"not measured on {self.device.type}", self.global_step)

    def training_step(self, batch: dict, batch_index: int) -> None:
        """One optimiser step.

        Raises:
            UnreadableVideo: if too many files are bad.
            FloatingPointError: if the loss or the gradient is not finite; the weights are left as they were.
        """
        step = self.global_step
        self._report(self.files.update(batch))
        torch.manual_seed(derive_seed(self.config.seed, "dropout", self.global_rank, step))
        optimizer = self.optimizers()
        optimizer.zero_grad()
        terms = self._accumulate_gradients(batch["sample"])
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.config.optimizer.max_grad_norm)
        if not (terms["loss"].isfinite() and norm.isfinite()):
            raise FloatingPointError(
                f"step {step + 1}: the loss is {terms['loss'].item()} and its gradient norm {norm.item()}; the run "
                "stops, the last checkpoint is good. A lower optimizer.learning_rate or precision=fp32 may help"
            )
        learning_rate = self.lr_schedulers().get_last_lr()[0]
        optimizer.step()
        self.lr_schedulers().step()
        self.log("loss", terms["loss"], prog_bar=True, logger=False)
        self.log("l1", terms["l1"], prog_bar=True, logger=False)
        is_last = self.global_step == self.config.max_steps
        if is_last or self.global_step % self.config.log_every == 0:
            self._log_step(terms | {"gradient_norm": norm}, learning_rate)
        self.trainer.should_stop |= is_last  # Lightning validates the step at which it is told to stop

    def _accumulate_gradients(self, sample: dict) -> dict[str, torch.Tensor]:
        """Backward over the micro-batches; returns the mean of the loss terms."""
        count = self.config.accumulate
        parts = zip(sample["video"].chunk(count), sample["position"].chunk(count), strict=True)
        without_sync = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        sums = {}
        for index, (frames, positions) in enumerate(parts):
            video = to_video(frames)
            noise = generators(self.config.seed, "posterior", positions.tolist())
            reconstruction, posterior = self.model(video, sample_posterior=True, generator=noise)
            loss, terms = self.loss(reconstruction, video, posterior)
            with nullcontext() if index + 1 == count else without_sync():
                self.manual_backward(loss / count)
            sums = {name: sums.get(name, 0) + term / count for name, term in terms.items()}
        return sums

    def _report(self, reasons: list[str]) -> None:
        for reason in reasons:
            self.print(f"skipped: {reason}")

    def _log_step(self, terms: dict[str, torch.Tensor], learning_rate: float) -> None:
        self._report(self.files.synchronize())
        self.files.check()
        means = {name: self.trainer.strategy.reduce(term, reduce_op="mean").item() for name, term in terms.items()}
        seconds = time.perf_counter() - self._window_start
        steps = self.global_step - self._window_step
        self._window_start, self._window_step = time.perf_counter(), self.global_step
        scalars = {f"train/{name}": value for name, value in means.items()}
        scalars["train/learning_rate"] = learning_rate
        scalars["train/unreadable_files"] = len(self.files.reasons)
        scalars["throughput/clips_per_second"] = steps * self.config.batch_size / seconds
        scalars["throughput/flops_per_second"] = steps * self.flops_per_step / seconds
        scalars["throughput/flops_per_step"] = self.flops_per_step
        if self.device.type == "cuda":
            scalars["memory/peak_bytes"] = torch.cuda.max_memory_allocated(self.device)
        if self.logger:
            self.logger.log_metrics(scalars, step=self.global_step)

    def validation_step(self, batch: dict, batch_index: int) -> None:
        """PSNR and SSIM in fp32, from the means of the posterior; moving pictures of the first clips."""
        for reason in batch["unreadable"].values():
            print(f"skipped in validation: {reason}")
        if batch["sample"] is None:
            return
        video = to_video(batch["sample"]["video"])
        with torch.autocast(self.device.type, enabled=False):  # bf16 would round what is measured
            latents = self.model.encode(video).latent_dist.mode()
            decoded = {part: self.model.decode(latents, part).sample.clamp(-1, 1) for part in PARTS}
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
        scalars = {"val/psnr": self.psnr.compute().item(), "val/ssim": self.ssim.compute().item()}
        self.psnr.reset()
        self.ssim.reset()
        for name, value in scalars.items():
            self.log(name, value, prog_bar=True, logger=False, rank_zero_only=True)
        if self.logger:
            self.logger.log_metrics(scalars, step=self.global_step)
