"""The small uniform transformer with which the paper compares tokenizers (arXiv 2412.17726, figure 5)."""

import math
from collections.abc import Sequence

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from autoencoder.transformer import Attention, FeedForward, sincos_embedding

PATCH = 2  # along every axis of every grid
NUM_TIME_CHANNELS = 256

Grid = tuple[int, int, int, int]  # (d, T, H, W)


def num_tokens(grid: Grid) -> int:
    """Patches of a grid; odd sides are padded up."""
    return math.prod(math.ceil(side / PATCH) for side in grid[1:])


def patchify(volume: torch.Tensor) -> torch.Tensor:
    """(B, d, T, H, W) -> (B, N, 8 d); odd sides are padded with zeros behind."""
    padding = [amount for side in reversed(volume.shape[2:]) for amount in (0, -side % PATCH)]
    sides = dict.fromkeys(("pt", "ph", "pw"), PATCH)
    return rearrange(F.pad(volume, padding), "b d (t pt) (h ph) (w pw) -> b (t h w) (pt ph pw d)", **sides)


class UniformBlock(nn.Module):
    """Attention and feed-forward behind layer norms with weights; the paper's parameter count leaves no modulation."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int):
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, hidden_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = x + self.attention(self.norm_attention(x))
        return x + self.feed_forward(self.norm_feed_forward(x))


class UniformDiT(nn.Module):
    """Denoiser over any set of latent grids, all patchified alike and read as one sequence.

    The paper states no conditioning. Here the time is embedded and added to every token, and there is no class.
    Positions are fixed (sin-cos of the place in the sequence), each grid has linear layers of its own into and out of
    the width, and the last norm has no weights.

    Args:
        grids: (d, T, H, W) of every latent.
        hidden_size: width C.
        num_layers: blocks.
        num_attention_heads: heads; must divide the width.
        intermediate_size: hidden width of the feed-forward.
    """

    def __init__(
        self,
        grids: Sequence[Grid],
        hidden_size: int = 512,
        num_layers: int = 6,
        num_attention_heads: int = 8,
        intermediate_size: int = 2048,
    ):
        super().__init__()
        self.lengths = [num_tokens(grid) for grid in grids]
        token_dims = [PATCH**3 * grid[0] for grid in grids]
        self.patch_in = nn.ModuleList(nn.Linear(dim, hidden_size) for dim in token_dims)
        self.time_frequencies = Timesteps(NUM_TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(NUM_TIME_CHANNELS, hidden_size)
        positions = sincos_embedding(hidden_size, torch.arange(sum(self.lengths)))
        self.register_buffer("position_embedding", positions, persistent=False)
        block = (hidden_size, num_attention_heads, intermediate_size)
        self.blocks = nn.ModuleList(UniformBlock(*block) for _ in range(num_layers))
        self.norm_out = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.patch_out = nn.ModuleList(nn.Linear(hidden_size, dim) for dim in token_dims)

    def forward(self, parts: Sequence[torch.Tensor], timestep: torch.Tensor) -> list[torch.Tensor]:
        """Denoise the tokens of all grids.

        Args:
            parts: (B, N_i, 8 d_i) for every grid, as `patchify` gives them.
            timestep: float (B,), in [0, 1000].

        Returns:
            The same shapes as `parts`.
        """
        embedded = [linear(part) for linear, part in zip(self.patch_in, parts, strict=True)]  # (B, N_i, C) each
        x = torch.cat(embedded, dim=1) + self.position_embedding  # (B, N, C)
        x = x + self.time_embedding(self.time_frequencies(timestep))[:, None]
        for block in self.blocks:
            x = block(x)
        outputs = self.norm_out(x).split(self.lengths, dim=1)  # (B, N_i, C) each
        return [linear(output) for linear, output in zip(self.patch_out, outputs, strict=True)]  # (B, N_i, 8 d_i)

    def attention_flops(self) -> int:
        """FLOPs of attention scores and weighted sums in one forward at batch 1, without the linear layers."""
        return 4 * sum(self.lengths) ** 2 * self.norm_out.normalized_shape[0] * len(self.blocks)
