"""What reaches flash-attn through diffusers' dispatcher, held against its published function; flash-attn never runs.

The signature and the limits are those of flash_attn_func in flash-attn 2.8.3 (flash_attn/flash_attn_interface.py).
"""

import importlib.util
import inspect
from functools import partial

import pytest
import torch
from diffusers.models import attention_dispatch
from fakecuda import FakeCuda
from tiny_models import noise_latents, tiny_pipeline
from torch.nn import functional as F

from generator import VidTwinDiT

MAX_HEAD_SIZE = 256


def flash_attn_func(
    q,
    k,
    v,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
):
    """The published signature; computes by torch what flash-attn does, and refuses what it refuses."""
    for tensor in (q, k, v):
        assert tensor.ndim == 4, "(batch, length, heads, head size)"
        assert tensor.dtype in (torch.float16, torch.bfloat16), "FlashAttention only support fp16 and bf16 data type"
        assert tensor.shape[-1] <= MAX_HEAD_SIZE and tensor.shape[-1] == q.shape[-1]
    assert q.dtype is k.dtype is v.dtype and q.device == k.device == v.device
    assert k.shape == v.shape and q.shape[0] == k.shape[0] and q.shape[2] % k.shape[2] == 0
    assert window_size == (-1, -1) and softcap == 0 and alibi_slopes is None and return_attn_probs is False
    out = F.scaled_dot_product_attention(
        *(tensor.transpose(1, 2) for tensor in (q, k, v)), dropout_p=dropout_p, is_causal=causal, scale=softmax_scale
    )
    return out.transpose(1, 2)


@pytest.fixture
def calls(monkeypatch):
    """Installs the function above; the shapes of the queries that it was called with."""
    shapes = []

    def noted(*args, **kwargs):
        bound = inspect.signature(flash_attn_func).bind(*args, **kwargs)
        shapes.append(tuple(bound.arguments["q"].shape))
        return flash_attn_func(*args, **kwargs)

    monkeypatch.setattr(attention_dispatch, "_CAN_USE_FLASH_ATTN", True)
    monkeypatch.setattr(attention_dispatch, "flash_attn_func", noted)
    return shapes


def run(pipe, dtype: torch.dtype, device: str = "cpu") -> list[torch.Tensor]:
    """Encode, decode and predict."""
    vae, transformer = pipe.vae, pipe.transformer
    video = torch.linspace(-1, 1, 2 * 3 * 4 * 16 * 16).view(2, *vae.video_shape).to(device, dtype)
    latents = noise_latents(pipe, 2).to(device, dtype)
    posterior = vae.encode(video).latent_dist
    tokens = transformer.layout.pack(latents)
    predicted = transformer(tokens, torch.tensor([100.0, 900.0], device=device), torch.tensor([0, 2], device=device))
    return [posterior.mean.structure, posterior.mean.dynamics, vae.decode(latents).sample, predicted.sample]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_both_models_through_flash_attention_equal_torchs_own_attention(dtype, calls):
    pipe = tiny_pipeline()
    for model in (pipe.vae, pipe.transformer):
        model.eval().to(dtype)
    with torch.no_grad():
        expected = run(pipe, dtype)
        assert not calls
        for model in (pipe.vae, pipe.transformer):
            model.set_attention_backend("flash")
        found = run(pipe, dtype)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    heads = {shape[2:] for shape in calls}
    assert heads == {(2, 8), (2, 4), (2, 16)}, "backbone, Q-Former and DiT: 2 heads of 16, 8 and 32 channels"


@pytest.mark.parametrize("cls_settings", [{}, {"qk_norm": "rms_norm", "positions": "rotary"}])
def test_training_under_autocast_hands_flash_attention_bf16(cls_settings, calls):
    """On fake CUDA, where norms and rotations give float32 under autocast."""
    pipe = tiny_pipeline(cls=partial(VidTwinDiT, **cls_settings))
    with FakeCuda():
        for model in (pipe.vae, pipe.transformer):
            model.train().to("cuda").set_attention_backend("flash")
        with torch.autocast("cuda", torch.bfloat16):
            outputs = run(pipe, torch.float32, "cuda")
        sum(output.float().mean() for output in outputs).backward()
    assert len(calls) >= 2 + 2 + 2 and pipe.transformer.blocks[0].attention.qkv.weight.grad is not None


def test_a_model_in_float32_is_refused_by_flash_attention(calls):
    pipe = tiny_pipeline()
    pipe.transformer.set_attention_backend("flash")
    with pytest.raises(AssertionError, match="only support fp16 and bf16"):
        run(pipe, torch.float32)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="flash-attn is not installed")
def test_the_installed_function_has_the_recorded_signature():
    from flash_attn import flash_attn_func as installed

    recorded = inspect.signature(flash_attn_func).parameters
    found = inspect.signature(installed).parameters
    assert [(name, found[name].default) for name in recorded] == [(name, p.default) for name, p in recorded.items()]
