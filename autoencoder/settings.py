"""The arguments of `AutoencoderVidTwin` as settings of commands."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class AutoencoderSettings:
    """The size and form of the autoencoder."""

    num_frames: int = 16
    """Frames F of a clip."""
    sample_size: int = 224
    """Height and width of a clip, in pixels; a multiple of `patch_size`."""
    patch_size: int = 16
    """Side of a patch, in pixels; every frame is patched by itself."""
    hidden_size: int = 768
    """Width of the backbone."""
    num_layers: int = 16
    """Blocks of the encoder, and of the decoder."""
    num_attention_heads: int = 12
    """Heads of the backbone."""
    structure_queries: int = 16
    """Queries n_q of the Q-Former, the time length of the structure latent."""
    structure_channels: int = 4
    """Channels d_S of the structure latent."""
    structure_downsamples: int = 1
    """Times that the structure branch halves the grid."""
    structure_conv_channels: int = 128
    """Channels after the first convolution of the structure branch; a halving doubles them."""
    dynamics_channels: int = 8
    """Channels d_D of the dynamics latent; 0 leaves it out (the paper's ablation (a))."""
    dynamics_downsamples: int = 1
    """Times that the dynamics branch halves the grid before it averages."""
    qformer_hidden_size: int = 64
    """Width of the Q-Former."""
    qformer_num_layers: int = 6
    """Layers of the Q-Former."""
    qformer_num_attention_heads: int = 8
    """Heads of the Q-Former."""
    qformer_intermediate_size: int = 768
    """Hidden width of the Q-Former's feed-forward."""
    qformer_dropout: float = 0.1
    """Dropout of the Q-Former in training, on its attention too."""
    qformer_initializer_range: float = 0.02
    """Standard deviation of the initial weights of the Q-Former's linear layers. A narrow model needs more than the
    paper's 0.02 for its structure latent to depend on the clip at all."""
    structure_reader: Literal["qformer", "convolution", "space_in_hidden"] = "qformer"
    """How the structure branch reads the backbone's tokens: "qformer", or for the paper's ablations "convolution" (c)
    or "space_in_hidden" (d)."""
    dynamics_reader: Literal["average", "qformer"] = "average"
    """How the dynamics branch reads the backbone's tokens: "average", or for the paper's ablation (b) "qformer"."""
    patch_overlap: int = 0
    """Pixels around a patch that the encoder reads with it; the paper's patches do not overlap."""
