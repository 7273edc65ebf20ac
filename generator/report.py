"""The lines that stage two's training prints before its first step."""

from autoencoder.common.cost import format_flops
from autoencoder.common.precision import describe_precision
from autoencoder.common.records import describe_loggers
from autoencoder.common.summary import describe_batches
from autoencoder.vidtwin import AutoencoderVidTwin
from generator.trainer import GeneratorTrainer

TARGETS = {
    "flow": "the velocity noise - x_0",
    "flow_sample": "the velocity noise - x_0, from the x_0 that is predicted",
    "sample": "x_0",
    "epsilon": "the noise",
    "v_prediction": "the velocity v",
}


def describe_run(trainer: GeneratorTrainer, vae: AutoencoderVidTwin, autoencoder_hash: str) -> dict[str, str]:
    """Lines for `summary`, by name, about a run that starts or resumes after `trainer.step` steps."""
    config, model, cache, step = trainer.config, trainer.model, trainer.cache, trainer.step
    processes, device = trainer.accelerator.num_processes, trainer.accelerator.device
    count, classes = sum(parameter.numel() for parameter in model.parameters()), len(cache.class_names)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    lora = f", {trained:,} of them trained: LoRA of rank {config.lora_rank}" if config.lora_rank else ""
    structure, tokens = model.layout.num_structure_tokens, model.layout.num_tokens
    replay = f", {config.lora_replay} of them own samples," if config.lora_replay else ""
    data = f"{len(cache):,} clips{replay} of {classes} class{'es' * (classes > 1)}"
    held_out = "none, the loss on held-out videos is not measured (--validate-every)"
    if trainer.held_out is not None:
        held_out = f"latents of {len(trainer.held_out):,} clips in {trainer.held_out.folder}"
    averages = " and ".join(f"{a:g}" for a in (config.ema_decay, config.second_ema_decay) if a is not None)
    return {
        "run": f"{trainer.folder.path}" + (f", goes on after step {step}" if step else ""),
        "data": f"{config.dataset}, latents of {data} in {cache.folder}",
        "held out": held_out,
        "autoencoder": f"{config.autoencoder} ({autoencoder_hash[:12]}), rate {vae.compression_rate:.2%}",
        "model": f"{count:,} parameters{lora}, {structure} structure and {tokens - structure} dynamics tokens",
        "loss": f"mean squared error of {TARGETS[config.objective.kind]}, per number of the normalised latents",
        "device": f"{processes} x {device}, {describe_precision(config.precision, device)}",
        "steps": f"{describe_batches(config, processes)}; checkpoint every {config.checkpoint_every}, samples every "
        f"{config.sample_every}, moving average {averages}",
        "records": describe_loggers(config.logger, trainer.folder),
        "cost": f"{format_flops(trainer.flops_per_step)} a step, "
        f"{format_flops(trainer.flops_per_step * (config.max_steps - step))} to go",
    }
