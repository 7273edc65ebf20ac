"""The spatial-temporal transformer of the backbone (arXiv 2412.17726)."""

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from autoencoder.common.errors import UserError

NORM_EPS = 1e-6
MLP_RATIO = 4  # hidden width of a feed-forward over the width
IMAGE_CHANNELS = 3


class AttentionProcessor:
    """Passes queries, keys and values to diffusers' dispatcher, which chooses the kernel."""

    _attention_backend = None
    _parallel_config = None

    def __call__(self, query, key, value, *, is_causal: bool = False, dropout_p: float = 0.0) -> torch.Tensor:
        """Attention with the scale D^-1/2; arguments and result are (B, L, H, D)."""
        return dispatch_attention_fn(
            query,
            key,
            value,
            is_causal=is_causal,
            dropout_p=dropout_p,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )


class Attention(nn.Module, AttentionModuleMixin):
    """Multi-head self-attention with bias.

    Args:
        dim: width of the tokens.
        num_heads: heads; must divide `dim`.
        causal: whether a token sees only itself and those before it.

    Raises:
        UserError: if the heads do not divide the width.
    """

    _default_processor_cls = AttentionProcessor
    _available_processors = [AttentionProcessor]
    _supports_qkv_fusion = False

    def __init__(self, dim: int, num_heads: int, causal: bool = False):
        super().__init__()
        if dim % num_heads:
            raise UserError(f"num_attention_heads={num_heads} does not divide the width {dim}")
        self.num_heads = num_heads
        self.causal = causal
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.set_processor(self._default_processor_cls())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, C) -> (B, L, C)."""
        query, key, value = rearrange(self.qkv(x), "b l (three h d) -> three b l h d", three=3, h=self.num_heads)
        x = self.processor(query, key, value, is_causal=self.causal)  # (B, L, H, D)
        return self.proj(x.flatten(2))  # (B, L, C)


class TanhGELU(nn.Module):
    """GELU, tanh approximation; where no gradient is recorded it overwrites its input.

    That input is the widest activation of a transformer, so inference needs less memory; on a CPU, where a fresh tensor
    of that size costs as much time as the function itself, it is faster too.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            return F.gelu(x, approximate="tanh")
        return torch.ops.aten.gelu_(x, approximate="tanh")


class FeedForward(nn.Sequential):
    """Linear, tanh-GELU, linear."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__(nn.Linear(dim, hidden_dim), TanhGELU(), nn.Linear(hidden_dim, dim))


def modulated_norm(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """norm(x) * (1 + scale) + shift for tables shared by all tokens: one fused layer norm with that weight and bias."""
    return F.layer_norm(x, x.shape[-1:], (1 + scale).to(x.dtype), shift.to(x.dtype), NORM_EPS)


class SpatialTemporalBlock(nn.Module):
    """Attention over the patches of a frame, causal attention over the frames of a patch, then the feed-forward.

    As in the reference, the temporal branch reads the stream itself, neither normed nor modulated, and both attentions
    share one gate.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.spatial_attention = Attention(dim, num_heads)
        self.temporal_attention = Attention(dim, num_heads, causal=True)
        self.feed_forward = FeedForward(dim, MLP_RATIO * dim)
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)

    def forward(self, x: torch.Tensor, temporal_position: torch.Tensor | None = None) -> torch.Tensor:
        """(B, F, N, C) -> (B, F, N, C); `temporal_position` (F, C) is added to what the temporal attention reads."""
        num_frames, num_patches = x.shape[1:3]
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.scale_shift_table.to(x.dtype).unbind()

        y = modulated_norm(x, shift_msa, scale_msa).flatten(0, 1)  # (B F, N, C)
        y = self.spatial_attention(y).unflatten(0, (-1, num_frames))  # (B, F, N, C)
        x = torch.addcmul(x, gate_msa, y.to(x.dtype))

        y = rearrange(x, "b f n c -> (b n) f c")
        if temporal_position is not None:
            y = y + temporal_position
        y = rearrange(self.temporal_attention(y), "(b n) f c -> b f n c", n=num_patches)
        x = torch.addcmul(x, gate_msa, y.to(x.dtype))

        y = self.feed_forward(modulated_norm(x, shift_mlp, scale_mlp))
        return torch.addcmul(x, gate_mlp, y.to(x.dtype))


def sincos_embedding(dim: int, positions: torch.Tensor) -> torch.Tensor:
    """Fixed sin-cos embedding, base 10000, laid out [sin | cos].

    Args:
        dim: even width.
        positions: (N,) coordinates.

    Returns:
        float32 (N, dim), computed in float64.

    Raises:
        UserError: if the width is odd.
    """
    if dim % 2:
        raise UserError(f"a sin-cos embedding needs an even width, got {dim}")
    frequencies = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = positions.double()[:, None] * frequencies  # (N, dim / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def spatial_embedding(dim: int, grid_size: int) -> torch.Tensor:
    """2-D embedding of a square grid, row by row: the first half encodes the column (width axis), the second the row.

    Returns:
        float32 (grid_size^2, dim).

    Raises:
        UserError: if 4 does not divide the width.
    """
    if dim % 4:
        raise UserError(f"a 2-D sin-cos embedding needs a width divisible by 4, got {dim}")
    rows, columns = torch.meshgrid(torch.arange(grid_size), torch.arange(grid_size), indexing="ij")
    halves = [sincos_embedding(dim // 2, axis.flatten()) for axis in (columns, rows)]
    return torch.cat(halves, dim=1)


class SpatialTemporalTransformer(nn.Module):
    """The stack of blocks of the encoder, or of the decoder, with fixed position embeddings."""

    def __init__(self, num_frames: int, grid_size: int, dim: int, num_layers: int, num_heads: int):
        super().__init__()
        self.blocks = nn.ModuleList(SpatialTemporalBlock(dim, num_heads) for _ in range(num_layers))
        self.register_buffer("spatial_position", spatial_embedding(dim, grid_size), persistent=False)
        self.register_buffer("temporal_position", sincos_embedding(dim, torch.arange(num_frames)), persistent=False)
        self.gradient_checkpointing = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, F, N, C) -> (B, F, N, C), in the dtype of the weights: autocast rounds products, not the stream."""
        dtype = self.blocks[0].scale_shift_table.dtype
        x = x.to(dtype) + self.spatial_position.to(dtype)
        for index, block in enumerate(self.blocks):
            temporal_position = self.temporal_position.to(dtype) if index == 0 else None
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, x, temporal_position)
            else:
                x = block(x, temporal_position)
        return x


class Encoder(nn.Module):
    """Video to backbone features; no final layer.

    With `patch_overlap` every patch is read with so many pixels around it, beyond the frame with those of its edge:
    a token sees an outline that passes through its patch (overlapping patches as in arXiv 2105.15203).
    """

    def __init__(
        self,
        num_frames: int,
        grid_size: int,
        patch_size: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        patch_overlap: int = 0,
    ):
        super().__init__()
        self.patch_size, self.patch_overlap = patch_size, patch_overlap
        self.patch_embedding = nn.Linear(IMAGE_CHANNELS * (patch_size + 2 * patch_overlap) ** 2, dim)
        self.transformer = SpatialTemporalTransformer(num_frames, grid_size, dim, num_layers, num_heads)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) -> (B, F, h w, C)."""
        p, around = self.patch_size, self.patch_overlap
        if around:
            video = F.pad(video, (around,) * 4 + (0, 0), mode="replicate")
        windows = video.unfold(3, p + 2 * around, p).unfold(4, p + 2 * around, p)  # (B, 3, F, h, w, side, side)
        x = rearrange(windows, "b c f h w p1 p2 -> b f (h w) (c p1 p2)")
        return self.transformer(self.patch_embedding(x))  # (B, F, h w, C)


class Decoder(nn.Module):
    """Backbone features to video; no input projection."""

    def __init__(self, num_frames: int, grid_size: int, patch_size: int, dim: int, num_layers: int, num_heads: int):
        super().__init__()
        self.patch_size, self.grid_size = patch_size, grid_size
        self.transformer = SpatialTemporalTransformer(num_frames, grid_size, dim, num_layers, num_heads)
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.proj_out = nn.Linear(dim, patch_size**2 * IMAGE_CHANNELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, F, h w, C) -> (B, 3, F, H, W)."""
        x = self.proj_out(modulated_norm(self.transformer(x), *self.scale_shift_table))
        p, h = self.patch_size, self.grid_size
        return rearrange(x, "b f (h w) (p1 p2 c) -> b c f (h p1) (w p2)", h=h, p1=p, p2=p)


def initialize_backbone(module: nn.Module) -> None:
    """Xavier-uniform linears with zero bias; temporal output projections and the last linear start at zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, SpatialTemporalBlock):
            nn.init.zeros_(layer.temporal_attention.proj.weight)
        if isinstance(layer, Decoder):
            nn.init.zeros_(layer.proj_out.weight)


def initialize_branch(branch: nn.Module, but: type[nn.Module]) -> None:
    """Kaiming-normal convolutions and linears, positive weights over queries and positions, zero biases.

    With torch's default each of the chained layers passes on a third of the variance of its input, and the structure
    latent varies along a single direction at first, and for long.

    Args:
        branch: encoder or decoder of a branch.
        but: a class whose modules within the branch are left as they are.
    """
    kept = {id(part) for module in branch.modules() if isinstance(module, but) for part in module.modules()}
    for name, layer in branch.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)) and id(layer) not in kept:
            if name == "queries_to_frames" or name.startswith("positions."):
                # These read a handful of numbers that are never negative. Were all their weights below zero, the ReLU
                # behind would keep that frame or position dark for good.
                nn.init.uniform_(layer.weight, 0, 2 / layer.in_features)
            else:
                nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
