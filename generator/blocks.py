"""The blocks of the diffusion transformer, and the choices that its config offers for them."""

import math
from collections.abc import Callable
from functools import partial

import torch
from diffusers.models.activations import SwiGLU
from diffusers.models.embeddings import apply_rotary_emb
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from autoencoder.transformer import NORM_EPS, Attention, FeedForward


def swiglu(dim: int, hidden_dim: int) -> nn.Module:
    """Gated feed-forward, two thirds as wide (in steps of 8), so that it has the parameters of the plain one."""
    hidden_dim = 8 * math.ceil(hidden_dim / 12)
    return nn.Sequential(SwiGLU(dim, hidden_dim), nn.Linear(hidden_dim, dim))


class HeadNorm(nn.RMSNorm):
    """RMS norm whose weight is cast to the dtype of its input, so that autocast keeps the fused kernel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., dim) -> (..., dim), in the same dtype."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps).to(x.dtype)


# One entry per value of the config; a new choice is a new entry.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer_norm": partial(nn.LayerNorm, eps=NORM_EPS, elementwise_affine=False),
    "rms_norm": partial(nn.RMSNorm, eps=NORM_EPS, elementwise_affine=False),
}
FEED_FORWARDS: dict[str, Callable[[int, int], nn.Module]] = {"gelu": FeedForward, "swiglu": swiglu}
QK_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": nn.Identity,
    "rms_norm": partial(HeadNorm, eps=NORM_EPS),
}

# Cosines and sines of rotary positions, 2 x float32 (N, D) for heads of width D; pairs lie side by side.
Rotary = tuple[torch.Tensor, torch.Tensor]


def multiply_add(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, tokens_per_type: tuple[int, int]
) -> torch.Tensor:
    """x * scale + shift, in one pass and without expanding per-type factors to all tokens.

    Args:
        x: (B, N, C).
        scale: (B, 1, C) for all tokens, (B, 2, C) for structure and dynamics, or (B, N, C).
        shift: like `scale`, or (B, N, C).
        tokens_per_type: structure and dynamics tokens, N in all.

    Returns:
        (B, N, C).
    """
    if scale.shape[1] in (1, x.shape[1]):
        return torch.addcmul(shift, x, scale)
    shifts = shift.split(tokens_per_type if shift.shape[1] == x.shape[1] else 1, dim=1)
    parts = zip(shifts, x.split(tokens_per_type, dim=1), scale.split(1, dim=1), strict=True)
    return torch.cat([torch.addcmul(*part) for part in parts], dim=1)  # (B, N, C)


def _by_token(modulation: torch.Tensor, time_rows: torch.Tensor | None) -> torch.Tensor:
    """(B, R, C) -> (B, N, C), each token's row; as it is, with one or two rows, where `time_rows` is None."""
    return modulation if time_rows is None else modulation[:, time_rows]


class TokenAttention(Attention):
    """Self-attention over all tokens, with optional norms of queries and keys per head and rotary positions."""

    def __init__(self, dim: int, num_heads: int, qk_norm: str = "none"):
        super().__init__(dim, num_heads)
        self.norm_query = QK_NORMS[qk_norm](dim // num_heads)
        self.norm_key = QK_NORMS[qk_norm](dim // num_heads)

    def forward(self, x: torch.Tensor, rotary: Rotary | None = None) -> torch.Tensor:
        """(B, N, C) -> (B, N, C); `rotary` rotates queries and keys."""
        query, key, value = rearrange(
            self.qkv(x), "b n (three h d) -> three b n h d", three=3, h=self.num_heads
        )  # 3 x (B, N, H, D)
        query, key = self.norm_query(query), self.norm_key(key)
        if rotary is not None:  # in fp32, cast back
            query, key = (apply_rotary_emb(part, rotary, sequence_dim=1) for part in (query, key))
        x = self.processor(query, key, value)  # (B, N, H, D)
        return self.proj(x.flatten(2))  # (B, N, C)


class ClassAttention(nn.Module):
    """Cross-attention to one class vector.

    The softmax over a single key is 1 for every query, so only the value and output projections are built.
    """

    def __init__(self, dim: int, class_dim: int):
        super().__init__()
        self.value = nn.Linear(class_dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, class_vector: torch.Tensor) -> torch.Tensor:
        """(B, 1, class_dim) -> (B, 1, C), the same for every token."""
        return self.proj(self.value(class_vector))  # (B, 1, C)


class DiTBlock(nn.Module):
    """Attention, cross-attention to the class if there is one, feed-forward; gated by the condition.

    Args:
        dim: width C.
        num_heads: attention heads.
        hidden_dim: width of the plain feed-forward.
        norm, feed_forward, qk_norm: keys of `NORMS`, `FEED_FORWARDS`, `QK_NORMS`.
        class_dim: width of the class vector, or None where the class comes with the condition.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        norm: str = "layer_norm",
        feed_forward: str = "gelu",
        qk_norm: str = "none",
        class_dim: int | None = None,
    ):
        super().__init__()
        self.modulation = nn.Linear(dim, 6 * dim)
        self.norm_attention = NORMS[norm](dim)
        self.attention = TokenAttention(dim, num_heads, qk_norm)
        self.class_attention = None if class_dim is None else ClassAttention(dim, class_dim)
        self.norm_feed_forward = NORMS[norm](dim)
        self.feed_forward = FEED_FORWARDS[feed_forward](dim, hidden_dim)

    def forward(
        self,
        x: torch.Tensor,
        condition: torch.Tensor,
        tokens_per_type: tuple[int, int],
        class_vector: torch.Tensor | None = None,
        rotary: Rotary | None = None,
        time_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One block.

        Args:
            x: (B, N, C).
            condition: (B, 1, C), (B, 2, C) with one for each latent type, or (B, R, C) with those of `time_rows`; the
                activation is already applied.
            tokens_per_type: structure and dynamics tokens, N in all.
            class_vector: (B, 1, class_dim), read where the block has a class attention.
            rotary: rotations of queries and keys, if positions are rotary.
            time_rows: long (N,), which of R conditions is each token's.

        Returns:
            (B, N, C).
        """
        modulation = _by_token(self.modulation(condition).to(x.dtype), time_rows).chunk(6, dim=-1)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation  # 6 x (B, 1, 2 or N, C)
        y = multiply_add(self.norm_attention(x), 1 + scale_msa, shift_msa, tokens_per_type)
        x = multiply_add(self.attention(y, rotary).to(x.dtype), gate_msa, x, tokens_per_type)
        if self.class_attention is not None:
            x = x + self.class_attention(class_vector)
        y = multiply_add(self.norm_feed_forward(x), 1 + scale_mlp, shift_mlp, tokens_per_type)
        return multiply_add(self.feed_forward(y).to(x.dtype), gate_mlp, x, tokens_per_type)


class FinalLayer(nn.Module):
    """Norm, modulation, and one linear layer per latent type from the width to a token's numbers."""

    def __init__(self, dim: int, norm: str, structure_dim: int, dynamics_dim: int):
        super().__init__()
        self.modulation = nn.Linear(dim, 2 * dim)
        self.norm = NORMS[norm](dim)
        self.structure = nn.Linear(dim, structure_dim)
        self.dynamics = nn.Linear(dim, dynamics_dim)

    def forward(
        self,
        x: torch.Tensor,
        condition: torch.Tensor,
        tokens_per_type: tuple[int, int],
        time_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, N, C) and a condition as in `DiTBlock` -> (B, N, D)."""
        modulation = _by_token(self.modulation(condition).to(x.dtype), time_rows)
        shift, scale = modulation.chunk(2, dim=-1)  # 2 x (B, 1, 2 or N, C)
        x = multiply_add(self.norm(x), 1 + scale, shift, tokens_per_type)
        structure, dynamics = x.split(tokens_per_type, dim=1)  # (B, N_S, C), (B, N_D, C)
        parts = self.structure(structure), self.dynamics(dynamics)  # (B, N_S, structure_dim), (B, N_D, dynamics_dim)
        token_dim = max(part.shape[-1] for part in parts)
        return torch.cat([F.pad(part, (0, token_dim - part.shape[-1])) for part in parts], dim=1)  # (B, N, D)
