"""The work of `python -m benchmarks.generator`."""

import torch

from autoencoder import AutoencoderVidTwin
from autoencoder.common.seeding import generators
from autoencoder.data.shapes import CLASS_NAMES
from benchmarks.suite import Stage, preset_model
from generator import VidTwinDiT
from generator.config import ObjectiveConfig
from generator.objective import diffusion_loss


def tiny() -> VidTwinDiT:
    """The preset for shapes, on the latents of the tiny autoencoder."""
    vae = AutoencoderVidTwin(**preset_model("autoencoder", "tiny"))
    return VidTwinDiT(
        structure_shape=vae.structure_shape,
        dynamics_shape=vae.dynamics_shape,
        dynamics_axes=vae.dynamics_axes,
        num_classes=len(CLASS_NAMES),
        **preset_model("generator", "shapes"),
    )


def paper() -> VidTwinDiT:
    """The paper's model, on the latents of its headline setting."""
    return VidTwinDiT(**preset_model("generator", "ucf101_paper"), prediction_type="sample")


def tokens(model: VidTwinDiT, batch_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise as tokens (B, N, D), times (B,) and labels (B,)."""
    layout = model.layout
    labels = torch.arange(batch_size) % model.config.num_classes
    return torch.randn(batch_size, layout.num_tokens, layout.token_dim), torch.rand(batch_size) * 1000, labels


def loss(model: VidTwinDiT, tokens: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Loss of stage two; the objective draws its own times."""
    objective = ObjectiveConfig(kind=model.config.prediction_type)
    return diffusion_loss(
        model,
        tokens,
        labels,
        objective,
        generators(0, "benchmark", range(len(tokens))),
        mask=model.mask,
        num_structure_tokens=model.layout.num_structure_tokens,
        null_label=model.config.num_classes,
    ).total


STAGE = Stage(name="generator", models={"tiny": tiny, "paper": paper}, inputs=tokens, loss=loss)
