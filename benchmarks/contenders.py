"""The models that `benchmarks.sampling` times, ours and those of diffusers, with random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, LatteTransformer3DModel
from torch import nn
from torch.nn import functional as F

from autoencoder import AutoencoderVidTwin, VidTwinLatents
from autoencoder.common.cost import count_flops, training_flops
from benchmarks.suite import preset_model
from benchmarks.turns import Contender
from generator import VidTwinDiT

TIME = 500.0
F8 = 8  # downsampling factor of the image autoencoder, along each side
# (query, row, column) of the structure and (frame, position) of the dynamics. The paper says "3-D patchify" and no
# size; patch 2 on every axis is what its resource comparison takes.
PATCHES = (((1, 1, 1), (1, 1)), ((2, 1, 1), (1, 1)), ((2, 2, 2), (2, 2)))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of everything that is compared.

    Attributes:
        dit: arguments of `VidTwinDiT`; its patch sizes give way to `PATCHES`.
        autoencoder: arguments of `AutoencoderVidTwin`.
        latte: arguments of diffusers' `LatteTransformer3DModel` beside those of `LATTE`.
        image_vae: block_out_channels and layers_per_block of diffusers' `AutoencoderKL`.
        latent_size: side of an f8 latent of a frame.
        num_frames: frames of a clip.
        square: side of the token grid on which ours is compared with `DiTTransformer2DModel`; the square latents of
            ours are (d, frames, rows, columns) and (d, frames, x + y) with as many tokens.
        dit_shapes: those latents, as arguments of `VidTwinDiT`.
    """

    dit: dict[str, Any]
    autoencoder: dict[str, Any]
    latte: dict[str, int]
    image_vae: dict[str, Any]
    latent_size: int
    num_frames: int
    square: int
    dit_shapes: dict[str, tuple[int, ...]]


# Other arguments of the published text-to-video model, which returns mean and variance, 8 channels.
LATTE = {
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "caption_channels": 4096,
}


def paper_scale() -> Scale:
    """The paper's DiT and base autoencoder on a clip of 16 x 224 x 224."""
    latte = {"num_layers": 14, "num_attention_heads": 16, "attention_head_dim": 72, "sample_size": 32}
    return Scale(
        dit=preset_model("generator", "ucf101_paper"),
        autoencoder=preset_model("autoencoder", "base"),
        latte={**latte, "video_length": 16},
        image_vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
        latent_size=28,
        num_frames=16,
        square=32,  # 16 x 7 x 7 + 16 x 15 = 1024 tokens; VidTwin's 1008 (with 16 x 14) are no square
        dit_shapes={"structure_shape": (8, 16, 7, 7), "dynamics_shape": (8, 16, 15), "dynamics_axes": (8, 7)},
    )


def quick_scale() -> Scale:
    """Very small models, to check that everything runs."""
    size = {"hidden_size": 48, "num_layers": 2, "num_attention_heads": 4}
    latte = {"num_layers": 1, "num_attention_heads": 4, "attention_head_dim": 12, "sample_size": 8}
    return Scale(
        dit=preset_model("generator", "ucf101_paper") | size,
        autoencoder=preset_model("autoencoder", "tiny"),
        latte={**latte, "video_length": 4},
        image_vae={"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4},
        latent_size=4,
        num_frames=4,
        square=6,
        dit_shapes={"structure_shape": (8, 4, 2, 2), "dynamics_shape": (8, 4, 5), "dynamics_axes": (3, 2)},
    )


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model in evaluation mode and in `dtype`; diffusers' own `to` warns whenever it is given one."""
    return nn.Module.to(model.eval(), dtype)


def inference(
    name: str, model: nn.Module, forward: Callable[..., object], device: torch.device, inputs: tuple
) -> Contender:
    """A contender that calls `forward`, which is the model or a method of it, without gradients."""
    flops = count_flops(forward, *inputs)
    inputs = tuple(value.to(device) for value in inputs)
    return Contender(name, model, torch.inference_mode()(lambda: forward(*inputs)), flops)


def vidtwin_denoiser(
    scale: Scale, patches: tuple[tuple[int, ...], tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> Contender:
    """One forward of the paper's DiT on the latents of the autoencoder, batch 1."""
    with torch.device("meta"):
        vae = AutoencoderVidTwin(**scale.autoencoder)
    shapes = {name: getattr(vae, name) for name in ("structure_shape", "dynamics_shape", "dynamics_axes")}
    sizes = {"structure_patch_size": patches[0], "dynamics_patch_size": patches[1]}
    model = in_dtype(VidTwinDiT(**scale.dit | shapes | sizes, prediction_type="sample"), dtype)
    structure, dynamics = ("x".join(map(str, patch)) for patch in patches)
    tokens = torch.randn(1, model.layout.num_tokens, model.layout.token_dim, dtype=dtype)
    name = f"VidTwin DiT, patch {structure} and {dynamics}, {model.layout.num_tokens} tokens"
    return inference(name, model, model, device, (tokens, torch.tensor([TIME]), torch.tensor([5])))


def latte_denoisers(scale: Scale, dtype: torch.dtype, device: torch.device) -> list[Contender]:
    """One forward of Latte on f8 latents, one caption token, batch 1: of the clip, and of one at its `sample_size`.

    It was made for frames of 256 pixels; ours have 224, which is latents of 28 x 28, and it takes any size.
    """
    dim = scale.latte["num_attention_heads"] * scale.latte["attention_head_dim"]
    model = in_dtype(LatteTransformer3DModel(**LATTE, **scale.latte, cross_attention_dim=dim), dtype)
    caption = torch.randn(1, 1, LATTE["caption_channels"], dtype=dtype)

    def denoiser(side: int) -> Contender:
        video = torch.randn(1, LATTE["in_channels"], scale.num_frames, side, side, dtype=dtype)
        tokens = scale.num_frames * (side // LATTE["patch_size"]) ** 2
        name = f"Latte, {F8 * side} pixels, {tokens} tokens"
        return inference(name, model, model, device, (video, torch.tensor([TIME]), caption))

    return [denoiser(side) for side in (scale.latent_size, scale.latte["sample_size"])]


def vidtwin_decoder(scale: Scale, dtype: torch.dtype, device: torch.device) -> Contender:
    """Our autoencoder's decoder, from latents to a clip, batch 1."""
    model = in_dtype(AutoencoderVidTwin(**scale.autoencoder), dtype)
    latents = VidTwinLatents(
        torch.randn(1, *model.structure_shape, dtype=dtype), torch.randn(1, *model.dynamics_shape, dtype=dtype)
    )
    return inference("VidTwin decoder, whole clip", model, model.decode, device, (latents,))


def image_decoder(scale: Scale, dtype: torch.dtype, device: torch.device) -> Contender:
    """An f8 image autoencoder of Stable Diffusion's form, frame by frame; one frame warms it up."""
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    model = in_dtype(AutoencoderKL(**kinds, latent_channels=4, **scale.image_vae), dtype)
    latent = torch.randn(1, 4, scale.latent_size, scale.latent_size, dtype=dtype)
    frame = inference("f8 image VAE, frame by frame", model, model.decode, device, (latent,))

    def clip() -> None:
        for _ in range(scale.num_frames):
            frame.call()

    return Contender(frame.name, model, clip, scale.num_frames * frame.flops, warm_up=frame.call)


def equal_models(scale: Scale, num_layers: int) -> list[tuple[str, nn.Module, tuple[torch.Tensor, ...]]]:
    """Ours and diffusers' DiT of equal width and depth, and inputs of equally many tokens, in fp32 on the CPU.

    Ours is in the form of the original DiT: adaLN-zero, layer norm without weights, GELU.
    """
    width, heads, classes = scale.dit["hidden_size"], scale.dit["num_attention_heads"], 101
    ours = VidTwinDiT(
        **scale.dit_shapes,
        hidden_size=width,
        num_layers=num_layers,
        num_attention_heads=heads,
        num_classes=classes,
        conditioning="adaln_zero",
        norm="layer_norm",
        feed_forward="gelu",
        qk_norm="none",
    )
    channels = ours.layout.token_dim
    theirs = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=channels,
        num_layers=num_layers,
        sample_size=scale.square,
        patch_size=1,
        num_embeds_ada_norm=classes,
    )
    time, label = torch.tensor([TIME]), torch.tensor([5])
    return [
        ("VidTwin DiT", ours, (torch.randn(1, scale.square**2, channels), time, label)),
        ("diffusers DiT", theirs, (torch.randn(1, channels, scale.square, scale.square), time, label)),
    ]


def forward(name: str, model: nn.Module, inputs: tuple, dtype: torch.dtype, device: torch.device) -> Contender:
    """One forward without gradients, the weights in `dtype`."""
    values, *others = inputs
    return inference(name, in_dtype(model, dtype).to(device), model, device, (values.to(dtype), *others))


def training_step(name: str, model: nn.Module, inputs: tuple, dtype: torch.dtype, device: torch.device) -> Contender:
    """Forward, backward and AdamW; bf16 is autocast over fp32 weights."""
    model.to(device).train()
    inputs = tuple(value.to(device) for value in inputs)
    optimizer = torch.optim.AdamW(model.parameters())

    def call() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            prediction = model(*inputs).sample
        F.mse_loss(prediction.float(), inputs[0]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Contender(name, model, call, training_flops(model, *inputs))
