"""I3D, the network whose logits the Frechet video distance compares.

Carreira and Zisserman, "Quo Vadis, Action Recognition?" (2017): Inception v1 with its filters inflated to three axes,
trained on Kinetics-400. Names and shapes of the tensors are those of `i3d_pretrained_400.pt`; the arithmetic is that
of the TF-Hub graph the published distances were computed with.
"""

from collections.abc import Sequence

import torch
from einops import reduce
from torch import nn
from torch.nn import functional as F

NUM_CLASSES = 400
SIDE = 224
MIN_FRAMES = 9  # fewer leave one step of time, and the last pooling takes two
BATCH_NORM_EPS = 1e-3  # of the original graph; ports to PyTorch with 1e-5 give logits about one percent larger

BRANCHES = {  # channels of b0, b1a, b1b, b2a, b2b, b3b
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def pad_same(x: torch.Tensor, kernel: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """Zero-pad the last three axes so that windows of `kernel` give ceil(size / stride) outputs (TensorFlow's "SAME").

    Of an odd number of zeros the larger half lies at the end.
    """
    pads = []
    for size, window, step in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        total = max(window - (size % step or step), 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def max_pool(x: torch.Tensor, kernel: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """Maximum over windows of `kernel`, with zero padding, which never wins because the inputs come from a ReLU."""
    return F.max_pool3d(pad_same(x, kernel, stride), kernel, stride)


class FrozenBatchNorm(nn.Module):
    """Batch normalisation by fixed statistics in every mode, without BatchNorm3d's counter, which no file holds."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.eps = eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.empty(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU: (B, in, T, H, W) -> (B, out, T / stride, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, *, eps: float):
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.bn = FrozenBatchNorm(out_channels, eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))  # (B, out, T / s, H / s, W / s)
        return F.relu(self.bn(x))


class Mixed(nn.Module):
    """Inception block of four concatenated branches: conv 1; conv 1, 3; conv 1, 3; max pooling and conv 1."""

    def __init__(self, in_channels: int, channels: Sequence[int], eps: float):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = channels
        self.b0 = Unit(in_channels, b0, eps=eps)
        self.b1a = Unit(in_channels, b1a, eps=eps)
        self.b1b = Unit(b1a, b1b, 3, eps=eps)
        self.b2a = Unit(in_channels, b2a, eps=eps)
        self.b2b = Unit(b2a, b2b, 3, eps=eps)
        self.b3b = Unit(in_channels, b3b, eps=eps)
        self.out_channels = b0 + b1b + b2b + b3b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = max_pool(x, (3, 3, 3), (1, 1, 1))
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)
        return torch.cat(branches, dim=1)  # (B, out, T, H, W)


class I3DNetwork(nn.Module):
    """Video (B, 3, T, 224, 224) in [-1, 1] with T >= 9 -> logits (B, 400), averaged over time.

    Args:
        bn_eps: epsilon of the batch normalisation; files of weights do not hold it.
    """

    def __init__(self, bn_eps: float = BATCH_NORM_EPS):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2, eps=bn_eps)
        self.Conv3d_2b_1x1 = Unit(64, 64, eps=bn_eps)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3, eps=bn_eps)
        channels = 192
        for name, branches in BRANCHES.items():
            mixed = Mixed(channels, branches, bn_eps)
            self.add_module(name, mixed)
            channels = mixed.out_channels
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(channels, NUM_CLASSES, 1)})

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        x = self.Conv3d_1a_7x7(video)  # (B, 64, T / 2, 112, 112)
        x = max_pool(x, (1, 3, 3), (1, 2, 2))  # (B, 64, T / 2, 56, 56)
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))  # (B, 192, T / 2, 56, 56)
        x = max_pool(x, (1, 3, 3), (1, 2, 2))  # (B, 192, T / 2, 28, 28)
        x = self.Mixed_3c(self.Mixed_3b(x))  # (B, 480, T / 2, 28, 28)
        x = max_pool(x, (3, 3, 3), (2, 2, 2))  # (B, 480, T / 4, 14, 14)
        x = self.Mixed_4d(self.Mixed_4c(self.Mixed_4b(x)))  # (B, 512, T / 4, 14, 14)
        x = self.Mixed_4f(self.Mixed_4e(x))  # (B, 832, T / 4, 14, 14)
        x = max_pool(x, (2, 2, 2), (2, 2, 2))  # (B, 832, T / 8, 7, 7)
        x = self.Mixed_5c(self.Mixed_5b(x))  # (B, 1024, T / 8, 7, 7)
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)  # (B, 1024, T / 8 - 1, 1, 1)
        x = self.logits["conv3d"](x)  # (B, 400, T / 8 - 1, 1, 1)
        return reduce(x, "b c t 1 1 -> b c", "mean")
