"""What stage one's training prints: its settings, its progress, and when it will be done."""

from lightning.pytorch import Callback

from autoencoder.common.cost import format_flops
from autoencoder.common.precision import describe_precision
from autoencoder.common.progress import progress_bar
from autoencoder.common.records import describe_loggers
from autoencoder.common.run import RunFolder
from autoencoder.common.summary import ExpectedEnd, describe_batches, describe_clips
from autoencoder.data.choice import count_alone
from autoencoder.data.clips import ClipDataset
from autoencoder.data.folder import VideoFiles
from autoencoder.training.config import ExchangeConfig, InterpolatingNoiseConfig, KLConfig, TrainConfig
from autoencoder.training.datamodule import ClipDataModule
from autoencoder.training.module import VidTwinModule

SHOWN = {"train/l1": "l1", "val/psnr": "psnr"}  # records that stand beside the bar


def describe_run(
    config: TrainConfig, module: VidTwinModule, data: ClipDataModule, folder: RunFolder, first_step: int
) -> dict[str, str]:
    """Lines for `summary`, by name, about a run that starts or resumes after `first_step` steps."""
    model = module.model
    count = sum(parameter.numel() for parameter in model.parameters())
    tokens = " and ".join(
        f"{name} {' x '.join(map(str, shape))}"
        for name, shape in (("structure", model.structure_shape), ("dynamics", model.dynamics_shape))
    )
    terms = [describe_error(config), describe_kl(config)]
    terms += [f"LPIPS x {config.lpips_weight:g}"] if config.lpips_weight else []
    terms += [f"GAN x {config.gan_weight:g} from step {config.gan_start}"] if config.gan else []
    flops = module.flops_per_step
    return {
        "run": f"{folder.path}" + (f", goes on after step {first_step}" if first_step else ""),
        "data": f"{config.dataset}, {describe_clips(data.train)}",
        "held out": f"{describe_clips(data.held_out)}; {len(data.held_out_indices)} of them are validated",
        "model": f"{count:,} parameters, latents {tokens}, rate {model.compression_rate:.2%}",
        "loss": ", ".join(terms) + "; the bar's l1 is the mean absolute error per number, of a range of 2",
        **({"exchange": describe_exchange(config.exchange, data.train)} if config.exchange.is_on else {}),
        **({"noise": describe_noise(config.interpolating_noise)} if config.interpolating_noise.level else {}),
        "device": f"{config.num_processes} x {config.device}, {describe_precision(config.precision, config.device)}",
        "steps": describe_batches(config, config.num_processes)
        + f"; validation every {config.validate_every}, checkpoint every {config.checkpoint_every}",
        "records": describe_loggers(config.logger, folder),
        "cost": f"{format_flops(flops)} a step, {format_flops(flops * (config.max_steps - first_step))} to go, without "
        "the networks of the loss",
    }


def describe_error(config: TrainConfig) -> str:
    """What the reconstruction is held to, such as "L1"."""
    if config.squared_error_steps >= config.max_steps:
        return "squared error"
    return f"squared error for {config.squared_error_steps} steps, then L1" if config.squared_error_steps else "L1"


def describe_kl(config: TrainConfig) -> str:
    """The weights of the KL divergence, such as "KL x 0.001"."""
    latents = {"structure": config.structure_kl, "dynamics": config.dynamics_kl}
    if all(kl == KLConfig() for kl in latents.values()):
        return f"KL x {config.kl_weight:g}"
    parts = []
    for name, kl in latents.items():
        weight = config.kl_weight if kl.weight is None else kl.weight
        late = f" from step {kl.start} on, in full {kl.warmup_steps} later" if kl.start or kl.warmup_steps else ""
        before = f", x {kl.initial:g} before" if kl.initial else ""
        parts.append(f"KL of {name} x {weight:g}{late}{before}")
    return ", ".join(parts)


def describe_noise(noise: InterpolatingNoiseConfig) -> str:
    """What the latents are interpolated with in training, in a line."""
    full = noise.start + noise.warmup_steps
    return (
        f"in the place of up to {noise.level:.0%} of the latents, {noise.strength:g} times as strong as they "
        f"(in full from step {full})"
    )


def describe_exchange(exchange: ExchangeConfig, clips: ClipDataset) -> str:
    """What the latents are read from in training on a data set, in a line."""
    parts = []
    if exchange.share:
        source = "another clip of the content" if exchange.companion == "content" else "another moment of the video"
        full = exchange.start + exchange.warmup_steps
        source += " moved to meet the clip" if exchange.align else ""
        lone = _describe_lone(clips) if exchange.companion == "content" else ""
        parts.append(f"structure of {exchange.share:.0%} of the samples from {source} (in full from step {full}{lone})")
    if exchange.moment_share:
        parts.append(f"of {exchange.moment_share:.0%} of the others from another moment of the video")
    if exchange.view_share:
        full = exchange.view_start + exchange.view_warmup_steps
        parts.append(f"dynamics of {exchange.view_share:.0%} from a changed view (in full from step {full})")
    if exchange.structure_only:
        last = exchange.structure_only_steps + exchange.structure_only_decay
        parts.append(f"{exchange.structure_only:.0%} decoded from structure alone (none from step {last} on)")
    return ", ".join(parts)


def _describe_lone(clips: ClipDataset) -> str:
    """How many videos have no other one of their content, where there are such."""
    count = count_alone(clips.listing) if isinstance(clips, VideoFiles) else 0
    said = f"; {count} of {len(clips)} videos have no other one of their content, and take a moment of their own"
    return said if count else ""


class StepProgress(Callback):
    """A progress bar over the steps of a run, and after some of them a line with its expected end.

    The bar shows the values that were logged last, so that it makes no step wait for the device.

    Args:
        max_steps: the run's number of steps.
    """

    def __init__(self, max_steps: int):
        self.max_steps, self.end = max_steps, ExpectedEnd(max_steps)
        self.bar = None

    def on_train_start(self, trainer, pl_module) -> None:
        """Open the bar at the run's step."""
        step = trainer.global_step
        self.bar = progress_bar(self.max_steps, "training", "step", initial=step, show=trainer.is_global_zero)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Advance by a step."""
        self._show(pl_module)
        self.bar.update()
        if line := self.end.after_step(trainer.global_step):
            self.bar.write(line)

    def on_validation_end(self, trainer, pl_module) -> None:
        """Show the new values."""
        self._show(pl_module)

    def on_train_end(self, trainer, pl_module) -> None:
        """Close the bar."""
        self.bar.close()

    def on_exception(self, trainer, pl_module, exception) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def _show(self, module: VidTwinModule) -> None:
        values = {name: f"{module.scalars[tag]:.4g}" for tag, name in SHOWN.items() if tag in module.scalars}
        self.bar.set_postfix(values, refresh=False)
