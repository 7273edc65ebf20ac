"""The arguments of `VidTwinDiT` that are settings of commands."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class TransformerSettings:
    """The size and form of the transformer."""

    structure_patch_size: tuple[int, int, int] = (1, 1, 1)
    """Patch over (query, row, column)."""
    dynamics_patch_size: tuple[int, int] = (1, 1)
    """Patch over (frame, position)."""
    hidden_size: int = 1152
    """Width C, even."""
    num_layers: int = 18
    """Blocks."""
    num_attention_heads: int = 16
    """Heads; must divide the width."""
    mlp_ratio: float = 4.0
    """Hidden width of the feed-forward over C."""
    conditioning: Literal["adaln_zero", "cross_attention"] = "adaln_zero"
    """How the class enters: "adaln_zero" adds it to the time in the modulation; "cross_attention" (paper) gives every
    block a cross-attention to the class, and modulates by the time alone."""
    class_embedding_size: int = 256
    """Width of the class vector of "cross_attention"; with "adaln_zero" it is C."""
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    """Normalisation, without weights."""
    feed_forward: Literal["gelu", "swiglu"] = "gelu"
    """Feed-forward of a block; "gelu" is the tanh approximation."""
    qk_norm: Literal["none", "rms_norm"] = "none"
    """Normalisation of the queries and keys of each head."""
    positions: Literal["sincos", "rotary"] = "sincos"
    """How positions enter: "sincos" adds an embedding of (query, row, column) or (frame, axis, place) to the tokens;
    "rotary" rotates queries and keys by these coordinates."""
