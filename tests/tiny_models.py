"""Models and pipelines small enough for tests, with random weights."""

import torch

from autoencoder import AutoencoderVidTwin, VidTwinLatents
from generator import VidTwinDiT
from generator.objective import make_scheduler
from pipelines import VidTwinDiffusionPipeline

NAMES = ("Circle Left", "Circle Right", "Square Left")


def tiny_vae(num_frames: int = 4, sample_size: int = 16, patch_size: int = 4) -> AutoencoderVidTwin:
    return AutoencoderVidTwin(
        num_frames=num_frames,
        sample_size=sample_size,
        patch_size=patch_size,
        hidden_size=16,
        num_layers=1,
        num_attention_heads=2,
        structure_queries=3,
        structure_channels=2,
        structure_conv_channels=8,
        dynamics_channels=2,
        qformer_hidden_size=8,
        qformer_num_layers=2,
        qformer_num_attention_heads=2,
        qformer_intermediate_size=16,
    )


def tiny_pipeline(
    prediction_type: str = "flow",
    cls: type[VidTwinDiT] = VidTwinDiT,
    names: tuple[str, ...] = NAMES,
    independent_times: bool = False,
    num_frames: int = 4,
    sample_size: int = 16,
    patch_size: int = 4,
    **options,
) -> VidTwinDiffusionPipeline:
    """A pipeline as training leaves it, but with random weights: initialised as usual it would answer 0.

    The three queries of the structure latent do not divide into patches of two, so tokens have padding. `options` are
    further arguments of the transformer.
    """
    torch.manual_seed(0)
    vae = tiny_vae(num_frames, sample_size, patch_size)
    transformer = cls(
        structure_shape=vae.structure_shape,
        dynamics_shape=vae.dynamics_shape,
        dynamics_axes=vae.dynamics_axes,
        structure_patch_size=(2, 1, 1),
        hidden_size=32,
        num_layers=2,
        num_attention_heads=2,
        num_classes=len(names),
        prediction_type=prediction_type,
        independent_times=independent_times,
        structure_mean=[0.1, -0.2],
        structure_std=[0.9, 1.1],
        id2label={str(index): name for index, name in enumerate(names)},
        **options,
    )
    for parameter in (*transformer.parameters(), *vae.decoder.proj_out.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    pipe = VidTwinDiffusionPipeline(vae=vae, transformer=transformer, scheduler=make_scheduler(prediction_type))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise_latents(pipe: VidTwinDiffusionPipeline, batch_size: int, seed: int = 1) -> VidTwinLatents:
    generator = torch.Generator().manual_seed(seed)
    shapes = pipe.vae.structure_shape, pipe.vae.dynamics_shape
    return VidTwinLatents(*(torch.randn(batch_size, *shape, generator=generator) for shape in shapes))


def max_difference(a: VidTwinLatents, b: VidTwinLatents) -> float:
    return max((a.structure - b.structure).abs().max().item(), (a.dynamics - b.dynamics).abs().max().item())
