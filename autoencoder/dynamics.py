"""The dynamics branch: each frame averaged along one axis at a time (arXiv 2412.17726)."""

import torch
from einops import rearrange, reduce
from torch import nn
from torch.nn import functional as F

from autoencoder.structure import halved


class DynamicsEncoder(nn.Module):
    """F_D: backbone features to the moments of the dynamics latent."""

    def __init__(self, grid_size: int, dim: int, latent_channels: int, num_downsamples: int):
        super().__init__()
        self.grid_size = grid_size
        self.downsamples = nn.ModuleList(nn.Conv2d(dim, dim, 3, stride=2, padding=1) for _ in range(num_downsamples))
        self.head = nn.Conv2d(dim, 2 * latent_channels, 3, padding=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, h w, c) -> (B, 2 d_D, F, w_D + h_D), the positions along x first."""
        num_frames = features.shape[1]
        x = rearrange(features, "b f (h w) c -> (b f) c h w", h=self.grid_size)
        for downsample in self.downsamples:
            x = F.relu(downsample(x))  # (B F, c, h / 2, w / 2)
        along_x = self.head(reduce(x, "(b f) c h w -> b c f w", "mean", f=num_frames))
        along_y = self.head(reduce(x, "(b f) c h w -> b c f h", "mean", f=num_frames))
        return torch.cat([along_x, along_y], dim=-1)


def relu_mlp(*dims: int) -> nn.Sequential:
    """Linear layers with a ReLU after each."""
    layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in zip(dims, dims[1:], strict=False)]
    return nn.Sequential(*(part for pair in layers for part in pair))


class DynamicsDecoder(nn.Module):
    """u_D: the dynamics latent back to backbone features: each axis is repeated along the other, and both are added.

    Both axes share the weights, as the grid is square.
    """

    def __init__(self, grid_size: int, dim: int, latent_channels: int, num_downsamples: int):
        super().__init__()
        latent_size = halved(grid_size, num_downsamples)
        self.channels = relu_mlp(latent_channels, dim, dim)
        self.positions = relu_mlp(latent_size, grid_size, grid_size) if num_downsamples else nn.Identity()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(B, d_D, F, w_D + h_D) -> (B, F, h w, c)."""
        x = self.channels(rearrange(z, "b c f p -> b f p c"))  # (B, F, w_D + h_D, c)
        x = rearrange(x, "b f (half p) c -> half b f c p", half=2)
        along_x, along_y = rearrange(self.positions(x), "half b f c p -> half b f p c")
        return rearrange(along_y[:, :, :, None] + along_x[:, :, None], "b f h w c -> b f (h w) c")
