"""The discriminator of the autoencoder's GAN (arXiv 2412.17726)."""

import torch
from einops import rearrange
from torch import nn

from autoencoder.common.errors import UserError

KERNEL_SIZE = 4
LEAK = 0.2


class PatchDiscriminator(nn.Module):
    """PatchGAN on single frames: one logit for every patch, from convolutions with BatchNorm.

    BatchNorm uses the statistics of the batch that it is given, so real and fake frames must come in two calls. With
    several processes these are the statistics of each process's own share, unless `nn.SyncBatchNorm`, which needs
    CUDA, takes its place.

    Args:
        width: channels after the first convolution.
        num_layers: convolutions of stride 2; the channels double up to 8 x width.

    Raises:
        UserError: if a size is not positive.
    """

    def __init__(self, width: int = 64, num_layers: int = 3):
        super().__init__()
        if width < 1 or num_layers < 1:
            raise UserError(f"width and num_layers must be positive, got {width} and {num_layers}")
        self.num_layers = num_layers
        widths = [width * min(2**layer, 8) for layer in range(num_layers + 1)]
        layers = [nn.Conv2d(3, width, KERNEL_SIZE, stride=2, padding=1), nn.LeakyReLU(LEAK)]
        for layer, (before, after) in enumerate(zip(widths, widths[1:], strict=False), start=1):
            stride = 2 if layer < num_layers else 1
            # BatchNorm takes the mean away, so a bias before it would do nothing.
            layers += [
                nn.Conv2d(before, after, KERNEL_SIZE, stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(LEAK),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, KERNEL_SIZE, stride=1, padding=1))
        self.main = nn.Sequential(*layers)
        for layer in self.main:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1.0, 0.02)

    @property
    def min_size(self) -> int:
        """Least height and width of a frame: the two convolutions of stride 1 take one row each."""
        return 3 * 2**self.num_layers

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Logits, high for what looks real.

        Args:
            video: (B, 3, F, H, W) in [-1, 1].

        Returns:
            (B F, 1, h, w).

        Raises:
            UserError: if the frames are too small to leave a patch.
        """
        if min(video.shape[-2:]) < self.min_size:
            height, width = video.shape[-2:]
            raise UserError(f"frames of {height} x {width} are too small: both sides must be at least {self.min_size}")
        frames = rearrange(video, "b c f h w -> (b f) h w c").movedim(-1, 1)  # (B F, 3, H, W), channels last in memory
        return self.main(frames)
