"""Alternative branch encoders of the ablation study of arXiv 2412.17726; details that it does not give are ours.

Those of the structure branch have `read_places`, as `QFormer` has; that of the dynamics branch has the forward of
`DynamicsEncoder`.
"""

import torch
from einops import rearrange
from torch import nn

from autoencoder.structure import QFormer

PLACE_CHANNELS = 8  # channels of a grid position in `SpaceInHidden`


class TemporalConvolution(nn.Module):
    """Ablation (c): a convolution over time, then a linear map from frames to queries, for each grid position alone.

    Args:
        num_frames: frames F.
        num_queries: n_q.
        context_dim: width of the features.
        dim: width of what goes into the convolutional bottleneck.
    """

    def __init__(self, num_frames: int, num_queries: int, context_dim: int, dim: int):
        super().__init__()
        self.conv = nn.Conv1d(context_dim, dim, 3, padding=1)
        self.frames_to_queries = nn.Linear(num_frames, num_queries)

    def read_places(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, N, c) -> (B N, n_q, d)."""
        x = self.conv(rearrange(features, "b f n c -> (b n) c f"))  # (B N, d, F)
        return rearrange(self.frames_to_queries(x), "n d q -> n q d")


class SpaceInHidden(nn.Module):
    """Ablation (d): one token per frame holds all its grid positions; a linear map recovers them after the Q-Former.

    Args:
        qformer: reads tokens of width N x `PLACE_CHANNELS`.
        num_places: grid positions N of a frame.
        context_dim: width of the features.
    """

    def __init__(self, qformer: QFormer, num_places: int, context_dim: int):
        super().__init__()
        self.num_places = num_places
        self.qformer = qformer
        self.squeeze = nn.Linear(context_dim, PLACE_CHANNELS)
        self.expand = nn.Linear(qformer.dim, num_places * qformer.dim)

    def read_places(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, N, c) -> (B N, n_q, d)."""
        x = self.qformer(self.squeeze(features).flatten(2))  # (B, n_q, d)
        return rearrange(self.expand(x), "b q (n d) -> (b n) q d", n=self.num_places)


class DynamicsQFormerEncoder(nn.Module):
    """Ablation (b): in every frame a Q-Former reads all grid positions; its queries stand for columns, then rows.

    Args:
        qformer: has w_D + h_D queries, those of the columns (positions along x) first.
        latent_channels: d_D.
    """

    def __init__(self, qformer: QFormer, latent_channels: int):
        super().__init__()
        self.qformer = qformer
        self.head = nn.Conv2d(qformer.dim, 2 * latent_channels, 3, padding=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, h w, c) -> (B, 2 d_D, F, w_D + h_D), the positions along x first."""
        x = self.qformer(features.flatten(0, 1))  # (B F, w_D + h_D, d)
        along_x, along_y = rearrange(x, "(b f) (half p) d -> half b d f p", b=len(features), half=2)
        return torch.cat([self.head(along_x), self.head(along_y)], dim=-1)
