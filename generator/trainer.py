"""The training loop of stage two, on accelerate: optimisation, moving averages, checkpoints, records."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers.training_utils import EMAModel
from torch.distributed.tensor import DTensor

from autoencoder.common.checkpoints import newest_whole_checkpoint
from autoencoder.common.compiling import set_up_model
from autoencoder.common.cost import PeakMemory, count_flops, training_flops
from autoencoder.common.errors import UserError
from autoencoder.common.guard import FiniteGuard
from autoencoder.common.processes import CommonStop
from autoencoder.common.progress import progress_bar
from autoencoder.common.records import Records, open_loggers
from autoencoder.common.run import RunFolder
from autoencoder.common.signals import StopSignals, catch_signals
from autoencoder.common.summary import ExpectedEnd
from autoencoder.data.stream import PositionSampler
from generator.averages import averaged_model, averaged_weights, make_average
from generator.batches import NoisySamples, Places, on_device, split
from generator.checkpoint import TrainingState
from generator.config import TrainConfig
from generator.dit import VidTwinDiT
from generator.latent_cache import LatentCache
from generator.lora import as_the_base, keeping_base
from generator.objective import NoisyBatch, denoising_losses


class GeneratorTrainer:
    """Trains a `VidTwinDiT` on the latents of a cache.

    One step is one optimiser step: every process takes an equal share of the batch through in micro-batches, whose
    losses are weighed by their sizes, so that their sum is the loss of the batch. All noise is drawn per sample from
    generators seeded by its position in the run; the position in the data is a function of the step. Every process
    holds the whole model (DDP), or a share of it (FSDP2).

    Args:
        model: the transformer, built for the cache.
        cache: the training set.
        config: the run's config.
        folder: the run's folder; the newest checkpoint in it is loaded.
        accelerator: its mixed precision is that of the config.
        held_out: cache for the loss on held-out videos; None measures none.

    Attributes:
        model: the transformer with the weights of the last step.
        averages: moving averages of the weights, with `ema_decay` and, if there is one, `second_ema_decay`.
        state: everything that the next step depends on.
        step: optimiser steps done.
        peak_memory: the training's peak memory, without previews.
        scalars: the last record of training and of held-out videos, by tag.
        records: what the loggers take; nothing in all processes but the main one, and in a dry run.

    Raises:
        UserError: if the processes do not divide the batch, the optimiser cannot work on shares of the weights, or the
            checkpoint belongs to the latents of another autoencoder or has other moving averages.
    """

    def __init__(
        self,
        model: VidTwinDiT,
        cache: LatentCache,
        config: TrainConfig,
        folder: RunFolder,
        accelerator: Accelerator,
        held_out: LatentCache | None = None,
    ):
        _check_processes(config, accelerator)
        if held_out is not None and len(held_out) < accelerator.num_processes:
            raise UserError(f"{len(held_out)} held-out clips are too few for {accelerator.num_processes} processes")
        self.cache, self.config, self.folder, self.accelerator = cache, config, folder, accelerator
        self.held_out = held_out
        self.flops_per_step = flops_of_sample(model, config) * config.batch_size
        optimizer, self.schedule = config.optimizer.build(model, config.max_steps, config.precision)
        set_up_model(model, config, accelerator.device)
        # The schedule stays outside: accelerate would step it once per process.
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.model = model
        decays = [decay for decay in (config.ema_decay, config.second_ema_decay) if decay is not None]
        self.averages = [make_average(model, decay) for decay in decays]
        self.state = TrainingState(
            model, self.optimizer, self.schedule, self.averages, cache.identity["autoencoder"], accelerator
        )
        path, self.step = newest_whole_checkpoint(folder.checkpoints)
        if path is not None:
            with keeping_base(model, path):
                self.state.load(path)
        self._sizes = config.micro_batches(accelerator.num_processes)
        self._guard = FiniteGuard("gradient_norm")
        self.peak_memory = PeakMemory(accelerator.device)
        self.scalars: dict[str, float] = {}
        self.records = self._open_records() if accelerator.is_main_process and not config.dry_run else Records()

    def run(self, callbacks: Sequence[Callable[["GeneratorTrainer"], None]] = (), progress: bool = True) -> None:
        """Train to `config.max_steps`.

        Args:
            callbacks: called with the trainer, in all processes, after every step and its checkpoint.
            progress: whether the main process shows a bar.

        Raises:
            NumericalError: if a gradient was not finite, before anything is recorded or saved after its step.
            Stopped: if a signal asks to end; the last whole step is saved.
        """
        config, show = self.config, progress and self.accelerator.is_main_process
        self._window_start, self._window_step = time.perf_counter(), self.step
        common = CommonStop()
        try:
            with (
                catch_signals() as signals,
                signals.delayed(),
                progress_bar(config.max_steps, "training", "step", initial=self.step, show=show) as bar,
            ):
                batches, end, first_step = self._micro_batches(), ExpectedEnd(config.max_steps), self.step + 1
                while self.step < config.max_steps:
                    terms, learning_rate = self._train_step(batches)
                    self.step += 1
                    if self.is_due(config.log_every):
                        self._log(terms, learning_rate)
                        bar.set_postfix({"loss": f"{self.scalars['train/loss']:.4f}"}, refresh=False)
                    elif self.step == first_step:
                        bar.set_postfix({"loss": f"{terms['loss'].item():.4f}"}, refresh=False)
                    if config.validate_every and self.is_due(config.validate_every):
                        self._record(self._validate())
                    bar.update()
                    if line := end.after_step(self.step):
                        bar.write(line)
                    self._end_step(signals, common, callbacks)
        finally:
            self.records.close()

    def try_step(self) -> dict[str, float]:
        """Take one step without recording it; returns this process's losses and gradient norm by name."""
        terms, _ = self._train_step(self._micro_batches())
        self._guard.check()
        return {name: term.item() for name, term in terms.items()}

    def is_due(self, every: int) -> bool:
        """True every `every` steps and at the last one."""
        return self.step % every == 0 or self.step == self.config.max_steps

    def _end_step(
        self, signals: StopSignals, common: CommonStop, callbacks: Sequence[Callable[["GeneratorTrainer"], None]]
    ) -> None:
        """Save the step if it is due, and call the callbacks; stop if a signal came."""
        signum = common.after_step(signals.signum)
        if signum or self.is_due(self.config.checkpoint_every):
            self._save_checkpoint()
        if signum:
            signals.stop(signum)
        for callback in callbacks:
            callback(self)
        if signals.signum and common.is_alone:
            self._save_checkpoint()
            signals.stop()

    def averaged_model(self, average: EMAModel) -> VidTwinDiT | None:
        """A new model with a moving average as its weights, in the main process; all processes must call it."""
        self._guard.check()
        return averaged_model(self.model, average, keep=self.accelerator.is_main_process)

    def _micro_batches(self) -> Iterator[NoisyBatch]:
        """This process's share of the remaining batches."""
        batches = PositionSampler(
            len(self.cache),
            self.config.batch_size,
            self.config.seed,
            start_step=self.step,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        left = islice(batches, self.config.max_steps - self.step)
        return self._drawn(self.cache, split(left, self._sizes), "objective")

    def _drawn(self, cache: LatentCache, places: Iterable[Places], stream: str) -> Iterator[NoisyBatch]:
        """Micro-batches of clips of a cache, on the device."""
        samples = NoisySamples(cache, self.config.objective, self.model, self.config.seed, stream)
        return on_device(samples, places, self.accelerator.device, self.config.num_workers)

    def _train_step(self, batches: Iterator[NoisyBatch]) -> tuple[dict[str, torch.Tensor], float]:
        """One optimiser step; returns this process's mean losses and the gradient norm, and the learning rate.

        The host does not wait for the device here, only where a scalar is recorded.
        """
        self.optimizer.zero_grad()
        terms = self._accumulate_gradients(batches)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.optimizer.max_grad_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self._guard.watch(self.step + 1, terms["loss"], {"gradient_norm": norm})
        learning_rate = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        for average in self.averages:
            average.step(self.model.parameters())
        return terms | {"gradient_norm": norm}, learning_rate

    def _accumulate_gradients(self, batches: Iterator[NoisyBatch]) -> dict[str, torch.Tensor]:
        """Backward over the micro-batches of a step; returns the means of the losses."""
        sums: dict[str, torch.Tensor] = {}
        for part, size in enumerate(self._sizes, start=1):
            with nullcontext() if part == len(self._sizes) else self.accelerator.no_sync(self.wrapped):
                terms, weight = self._losses(self._to_learn(next(batches))), size / sum(self._sizes)
                self.accelerator.backward(terms["loss"] * weight)
            sums = {name: sums.get(name, 0) + term.detach() * weight for name, term in terms.items()}
        return sums

    def _to_learn(self, batch: NoisyBatch) -> NoisyBatch:
        """A batch with the targets of training, which validation does not have."""
        with self.accelerator.autocast():
            return as_the_base(self.model, batch) if self.config.lora_replay else batch

    def _losses(self, batch: NoisyBatch) -> dict[str, torch.Tensor]:
        with self.accelerator.autocast():  # DDP's forward has it, FSDP2's has not
            losses = denoising_losses(self.wrapped, batch, self.model.mask, self.model.layout.num_structure_tokens)
        return {"loss": losses.total, "loss_structure": losses.structure, "loss_dynamics": losses.dynamics}

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Losses of the moving average on held-out clips, always with the same noise and times.

        Every process takes equally many clips, because a sharded model must be called by all processes; the remainder
        is left out.
        """
        self._guard.check()
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        share = range(rank, len(self.held_out) // processes * processes, processes)
        size = self._sizes[0]
        places = split([[(index, index) for index in share]], [size] * math.ceil(len(share) / size))
        sums = torch.zeros(3, device=self.accelerator.device)
        with averaged_weights(self.model, self.averages[0]):
            for batch in self._drawn(self.held_out, places, "validation"):
                terms = self._losses(batch)
                sums += len(batch.labels) * torch.stack(list(terms.values()))
        means = self.accelerator.reduce(sums / len(share), "mean").tolist()
        return {f"val/{name}": value for name, value in zip(terms, means, strict=True)}

    def _open_records(self) -> Records:
        records = Records(open_loggers(self.config.logger, self.folder, self.step))
        device = self.accelerator.device.type
        if device != "cuda" and not self.step:
            records.text("memory/peak", f"not measured on {device}", 0)
        return records

    def _log(self, terms: dict[str, torch.Tensor], learning_rate: float) -> None:
        self._guard.check()
        values = self.accelerator.reduce(torch.stack(list(terms.values())), "mean").tolist()
        seconds = time.perf_counter() - self._window_start
        steps = self.step - self._window_step
        self._window_start, self._window_step = time.perf_counter(), self.step
        scalars = {f"train/{name}": value for name, value in zip(terms, values, strict=True)}
        scalars["train/learning_rate"] = learning_rate
        scalars["throughput/samples_per_second"] = steps * self.config.batch_size / seconds
        scalars["throughput/flops_per_second"] = steps * self.flops_per_step / seconds
        scalars["throughput/flops_per_step"] = self.flops_per_step
        if (peak := self.peak_memory.bytes) is not None:
            scalars["memory/peak_bytes"] = peak
        self._record(scalars)

    def _record(self, scalars: dict[str, float]) -> None:
        self.scalars |= scalars
        self.records.scalars(scalars, self.step)

    def _save_checkpoint(self) -> None:
        self._guard.check()
        self.records.flush()
        self.state.save(self.folder.checkpoint_path(self.step), self.step)
        if self.accelerator.is_main_process:
            self.folder.remove_old_checkpoints(self.config.keep_checkpoints)


def _check_processes(config: TrainConfig, accelerator: Accelerator) -> None:
    """Refuse a run that cannot be split over the processes."""
    config.micro_batches(accelerator.num_processes)
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise UserError("FSDP is supported in its second version: launch with fsdp_version: 2")
    if accelerator.is_fsdp2 and config.lora_rank:
        raise UserError(
            f"lora_rank={config.lora_rank} freezes the model, which FSDP would share out with its few trained weights: "
            "launch without FSDP"
        )
    if accelerator.is_fsdp2 and config.optimizer.name == "muon":
        raise UserError(
            "optimizer.name=muon orthogonalises whole matrices, and FSDP leaves every process a share of them: give "
            "--optimizer.name adamw, or launch without FSDP"
        )


def flops_of_sample(model: VidTwinDiT, config: TrainConfig) -> int:
    """FLOPs that a training step takes for one sample.

    LoRA takes about twice the forward: frozen weights need no gradients, which are half of a backward. Its replay takes
    about one forward more, the base's.
    """
    tokens = torch.empty(1, model.layout.num_tokens, model.layout.token_dim, device="meta")
    times, labels = torch.empty(1, device="meta"), torch.empty(1, dtype=torch.long, device="meta")
    if config.lora_rank:
        return (2 + bool(config.lora_replay)) * count_flops(model, tokens, times, labels)
    return training_flops(model, tokens, times, labels)
