"""The structure branch: Q-Former over time, convolutional bottleneck per query (arXiv 2412.17726)."""

import torch
from diffusers.models.attention import AttentionModuleMixin
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from autoencoder.common.errors import UserError
from autoencoder.transformer import AttentionProcessor

QFORMER_NORM_EPS = 1e-12
CROSS_ATTENTION_EVERY = 2


def halved(size: int, times: int) -> int:
    """Side length after stride-2 convolutions of kernel 3 and padding 1, which round up."""
    for _ in range(times):
        size = (size + 1) // 2
    return size


class QFormerAttention(nn.Module, AttentionModuleMixin):
    """Attention with its output projection, dropout, residual and post-norm.

    Args:
        dim: width of the queries.
        context_dim: width of keys and values.
    """

    _default_processor_cls = AttentionProcessor
    _available_processors = [AttentionProcessor]
    _supports_qkv_fusion = False

    def __init__(self, dim: int, context_dim: int, num_heads: int, dropout: float):
        super().__init__()
        if dim % num_heads:
            raise UserError(f"qformer_num_attention_heads={num_heads} does not divide qformer_hidden_size={dim}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(context_dim, dim)
        self.to_v = nn.Linear(context_dim, dim)
        self.to_out = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=QFORMER_NORM_EPS)
        self.set_processor(self._default_processor_cls())

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """x (B, Q, d), context (B, L, c) -> (B, Q, d)."""
        dropout = self.dropout if self.training else 0.0
        query, key, value = (
            rearrange(projected, "b l (h d) -> b l h d", h=self.num_heads)
            for projected in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        y = self.processor(query, key, value, dropout_p=dropout).flatten(2)  # (B, Q, d)
        return self.norm(x + F.dropout(self.to_out(y), dropout))


class QFormerFeedForward(nn.Module):
    """Linear, exact GELU, linear, dropout, residual and post-norm."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float):
        super().__init__()
        self.linear_in = nn.Linear(dim, hidden_dim)
        self.linear_out = nn.Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim, eps=QFORMER_NORM_EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.dropout(self.linear_out(F.gelu(self.linear_in(x)))))


class QFormerLayer(nn.Module):
    """Self-attention of the queries, cross-attention in every second layer, feed-forward."""

    def __init__(
        self, dim: int, context_dim: int, num_heads: int, hidden_dim: int, dropout: float, has_cross_attention: bool
    ):
        super().__init__()
        self.self_attention = QFormerAttention(dim, dim, num_heads, dropout)
        self.cross_attention = QFormerAttention(dim, context_dim, num_heads, dropout) if has_cross_attention else None
        self.feed_forward = QFormerFeedForward(dim, hidden_dim, dropout)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """x (B, Q, d), context (B, L, c) -> (B, Q, d)."""
        x = self.self_attention(x, x)
        if self.cross_attention is not None:
            x = self.cross_attention(x, context)
        return self.feed_forward(x)


class QFormer(nn.Module):
    """Learned queries that read a sequence, as in BLIP-2; here the sequence is one grid position over time."""

    def __init__(
        self,
        num_queries: int,
        dim: int,
        context_dim: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        dropout: float,
        initializer_range: float,
    ):
        super().__init__()
        self.dim = dim
        self.queries = nn.Parameter(torch.randn(num_queries, dim))
        self.norm = nn.LayerNorm(dim, eps=QFORMER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            QFormerLayer(dim, context_dim, num_heads, hidden_dim, dropout, index % CROSS_ATTENTION_EVERY == 0)
            for index in range(num_layers)
        )
        self.gradient_checkpointing = False
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=initializer_range)
                nn.init.zeros_(layer.bias)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """(B, L, c) -> (B, n_q, d)."""
        x = self.norm(self.queries).expand(len(context), -1, -1)  # (B, n_q, d)
        x = self.dropout(x.to(context.dtype))
        for layer in self.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(layer, x, context)
            else:
                x = layer(x, context)
        return x

    def read_places(self, features: torch.Tensor) -> torch.Tensor:
        """Read every grid position over time by itself: (B, F, N, c) -> (B N, n_q, d)."""
        return self(rearrange(features, "b f n c -> (b n) f c"))


class StructureEncoder(nn.Module):
    """F_S: backbone features to the moments of the structure latent.

    Args:
        qformer: a `QFormer`, or an ablation's module with the same `read_places`.
        qformer_dim: width d of its output.
        grid_size: grid positions along a side.
        latent_channels: d_S.
        num_downsamples: times that the grid is halved.
        conv_channels: channels after the first convolution.
    """

    def __init__(
        self,
        qformer: nn.Module,
        qformer_dim: int,
        grid_size: int,
        latent_channels: int,
        num_downsamples: int,
        conv_channels: int,
    ):
        super().__init__()
        self.grid_size = grid_size
        self.qformer = qformer
        self.conv_in = nn.Conv2d(qformer_dim, conv_channels, 3, padding=1)
        widths = [conv_channels * 2**level for level in range(num_downsamples + 1)]
        self.downsamples = nn.ModuleList(
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1) for narrow, wide in zip(widths, widths[1:], strict=False)
        )
        self.conv_out = nn.Conv2d(widths[-1], 2 * latent_channels, 3, padding=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, h w, c) -> (B, 2 d_S, n_q, h_S, w_S)."""
        batch = len(features)
        x = self.qformer.read_places(features)  # (B h w, n_q, d)
        x = rearrange(x, "(b h w) q d -> (b q) h w d", b=batch, h=self.grid_size)
        x = self.conv_in(x.movedim(-1, 1))  # (B n_q, conv_channels, h, w), channels last in memory
        for downsample in self.downsamples:
            x = F.relu(downsample(x))  # (B n_q, 2 x channels, h / 2, w / 2)
        return rearrange(self.conv_out(x), "(b q) c h w -> b c q h w", b=batch)


class StructureDecoder(nn.Module):
    """u_S: the structure latent back to backbone features; a linear map over the queries turns them into frames."""

    def __init__(
        self,
        num_frames: int,
        num_queries: int,
        grid_size: int,
        dim: int,
        latent_channels: int,
        num_downsamples: int,
        conv_channels: int,
        qformer_dim: int,
    ):
        super().__init__()
        self.grid_size = grid_size
        widths = [conv_channels * 2**level for level in range(num_downsamples, -1, -1)]
        self.conv_in = nn.Conv2d(latent_channels, widths[0], 3, padding=1)
        self.upsamples = nn.ModuleList(
            nn.Conv2d(wide, narrow, 3, padding=1) for wide, narrow in zip(widths, widths[1:], strict=False)
        )
        self.conv_out = nn.Conv2d(conv_channels, qformer_dim, 3, padding=1)
        self.proj = nn.Linear(qformer_dim, dim)
        self.queries_to_frames = nn.Linear(num_queries, num_frames)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(B, d_S, n_q, h_S, w_S) -> (B, F, h w, c)."""
        batch = len(z)
        x = rearrange(z, "b c q h w -> (b q) h w c").movedim(-1, 1)  # (B n_q, d_S, h_S, w_S), channels last in memory
        x = F.relu(self.conv_in(x))  # (B n_q, wide, h_S, w_S)
        for upsample in self.upsamples:
            x = F.interpolate(F.relu(upsample(x)), scale_factor=2.0, mode="nearest")  # (B n_q, channels / 2, 2 h, 2 w)
        border = (x.shape[-1] - self.grid_size) // 2
        inside = slice(border, border + self.grid_size)
        x = self.conv_out(x)[:, :, inside, inside]  # (B n_q, d, h, w)
        x = F.relu(self.proj(rearrange(x, "(b q) d h w -> b (h w) q d", b=batch)))  # (B, h w, n_q, c)
        x = F.relu(self.queries_to_frames(rearrange(x, "b n q c -> b n c q")))  # (B, h w, c, F)
        return rearrange(x, "b n c f -> b f n c")
