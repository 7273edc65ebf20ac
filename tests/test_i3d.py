"""I3D against logits of another implementation, with the random weights that these were computed with."""

import copy
import hashlib
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from random_i3d import FIXTURES, SHAPES, Archive, random_input, random_state_dict, write_archive
from torch import nn

from autoencoder.common.errors import UserError
from autoencoder.metrics import I3D, i3d
from autoencoder.metrics.i3d_network import I3DNetwork

UNKNOWN = {"name": "a test", "sha256": "0", "known": False}
CHANGES = [lambda module: module.half(), lambda module: module.to(torch.float16), lambda module: module.train()]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("i3d") / "random.pt"
    torch.save(random_state_dict(), path)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return write_archive(tmp_path_factory.mktemp("archive") / "archive.pt")


class Recorder(nn.Module):
    """In place of the network: notes what it is given, and under which settings."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        backends = torch.backends
        self.given = video
        self.precision = [
            setting.fp32_precision for setting in (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv)
        ]
        self.autocast = torch.is_autocast_enabled(video.device.type)
        return self.scale * torch.ones(len(video), 400)


def test_names_and_shapes_are_those_of_the_published_file():
    with torch.device("meta"):
        state = I3DNetwork().state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == SHAPES and len(state) == 287
    assert sum(tensor.numel() for name, tensor in state.items() if "running" not in name) == 12_697_264


@pytest.mark.parametrize("frames, eps", [(9, 1e-3), (16, 1e-3), (17, 1e-3), (24, 1e-3), (16, 1e-5)])
def test_logits_equal_those_of_another_implementation(weights, frames, eps):
    expected = np.load(FIXTURES / "i3d_random_expected.npz")
    extractor = I3D.from_file(weights, allow_unknown=True, bn_eps=eps)
    logits = extractor.logits(random_input(frames))
    assert logits.shape == (1, 400) and logits.dtype == torch.float32 and not logits.requires_grad
    np.testing.assert_allclose(logits.numpy(), expected[f"logits_T{frames}_eps{eps:g}"][:1], atol=2e-4)
    other = expected[f"logits_T{frames}_eps{1e-5 if eps == 1e-3 else 1e-3:g}"][:1]
    assert np.abs(logits.numpy() - other).max() > 0.05, "the tolerance must tell the two eps apart"


def half_pixel(size: int, target: int) -> torch.Tensor:
    """(target, size): linear interpolation between the centres of pixels."""
    matrix = torch.zeros(target, size, dtype=torch.float64)
    for row in range(target):
        place = min(max((row + 0.5) * size / target - 0.5, 0), size - 1)
        low = min(int(place), size - 2)
        matrix[row, low], matrix[row, low + 1] = low + 1 - place, place - low
    return matrix


@pytest.mark.parametrize("size", [100, 256])
def test_videos_are_resized_and_brought_to_the_range_of_the_network(size):
    extractor = I3D(recorder := Recorder(), UNKNOWN)
    video = torch.rand(2, 3, 9, size, size, generator=torch.Generator().manual_seed(0))
    assert extractor(video).shape == (2, 400)
    resize = half_pixel(size, 224)
    expected = 2 * (resize @ video[1, 2, 5].double() @ resize.T) - 1
    assert recorder.given.shape == (2, 3, 9, 224, 224)
    torch.testing.assert_close(recorder.given[1, 2, 5].double(), expected, atol=2e-4, rtol=0)  # places in float32
    extractor(whole := torch.rand(1, 3, 9, 224, 224))
    assert torch.equal(recorder.given, 2 * whole - 1)


def test_settings_around_it_change_nothing():
    extractor = I3D(recorder := Recorder(), UNKNOWN)
    video = torch.rand(1, 3, 9, 8, 8)
    extractor(video)
    given = recorder.given
    former = torch.backends.mkldnn.conv.fp32_precision
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert extractor(video).dtype == torch.float32
            assert torch.is_autocast_enabled("cpu")
        assert torch.backends.mkldnn.conv.fp32_precision == "bf16", "what the caller has set is left as it was"
    finally:
        torch.backends.mkldnn.conv.fp32_precision = former
    assert recorder.precision == ["ieee"] * 3 and not recorder.autocast
    assert torch.equal(recorder.given, given)


@pytest.mark.parametrize("change", CHANGES)
def test_it_stays_frozen_in_eval_mode_and_float32(weights, change):
    extractor = change(I3D.from_file(weights, allow_unknown=True))
    assert not any(module.training for module in extractor.modules())
    assert {tensor.dtype for tensor in extractor.state_dict().values()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in extractor.parameters())


def test_loading_draws_nothing_and_takes_the_form_in_which_modules_are_saved(weights, tmp_path):
    modern = OrderedDict(random_state_dict())
    modern._metadata = OrderedDict({"": {"version": 1}} | {name[: -len(".weight")]: {"version": 2} for name in modern})
    torch.save(modern, tmp_path / "modern.pt")
    torch.manual_seed(0)
    loaded = [I3D.from_file(path, allow_unknown=True).state_dict() for path in (weights, tmp_path / "modern.pt")]
    assert torch.initial_seed() == 0 and torch.equal(torch.rand(3), torch.rand(3, generator=torch.manual_seed(0)))
    for name, tensor in random_state_dict().items():
        assert all(torch.equal(state[f"network.{name}"], tensor) for state in loaded)


def test_only_the_two_published_files_are_known(weights, archive, monkeypatch):
    for path in (weights, archive):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with pytest.raises(ValueError, match=f"sha256 {digest}.*rgb_imagenet.pt.*--allow-unknown-i3d"):
            I3D.from_file(path)
        identity = I3D.from_file(path, allow_unknown=True).identity
        assert (identity["sha256"], identity["known"]) == (digest, False)
        assert identity["name"] == f"I3D with unknown weights {digest[:12]}"

    monkeypatch.setattr(i3d, "TENSORS_SHA256", i3d.tensor_digest(random_state_dict()))
    monkeypatch.setattr(i3d, "TORCHSCRIPT_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    for path, eps in ((weights, {"bn_eps": 1e-3}), (archive, {})):
        identity = I3D.from_file(path).identity
        assert (identity["name"], identity["known"]) == ("I3D", True)
        assert identity.items() >= eps.items() and ("bn_eps" in identity) == bool(eps)


@pytest.mark.parametrize("name", ["TORCHSCRIPT_SHA256", "TENSORS_SHA256"])
def test_a_hash_is_whole_and_belongs_to_one_form(name, weights, archive, monkeypatch):
    """Neither the first digits of a hash nor the hash of the other form make a file known."""
    digest = hashlib.sha256
    files = {path: digest(path.read_bytes()).hexdigest() for path in (weights, archive)}
    others = {"TORCHSCRIPT_SHA256": files[archive], "TENSORS_SHA256": i3d.tensor_digest(random_state_dict())}
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("an unknown program was read"))
    for collision in (others[name][:7] + "0" * 57, others[name][:-1] + "x", others[name][:7], ""):
        monkeypatch.setattr(i3d, name, collision)
        for path in files:
            with pytest.raises(ValueError, match="unknown weights"):
                I3D.from_file(path)
    for other in files.values():  # a state dict by the hash of the file, or an archive where a state dict is expected
        if other != others[name]:
            monkeypatch.setattr(i3d, name, other)
            for path in files:
                with pytest.raises(ValueError, match="unknown weights"):
                    I3D.from_file(path)
    monkeypatch.setattr(i3d, "TENSORS_SHA256", files[archive])
    monkeypatch.setattr(i3d, "TORCHSCRIPT_SHA256", files[weights])
    for path in files:
        with pytest.raises(ValueError, match="unknown weights"):
            I3D.from_file(path)


def test_every_bit_of_every_tensor_counts():
    state = random_state_dict()
    digest = i3d.tensor_digest(state)
    assert digest == i3d.tensor_digest(dict(reversed(state.items()))) and len(digest) == 64
    name = sorted(state)[100]
    changed = state[name].clone()
    changed.view(-1)[0] = torch.nextafter(changed.view(-1)[0], torch.tensor(torch.inf))
    assert i3d.tensor_digest(state | {name: changed}) != digest
    moved = state | {"Mixed_3b.b0.bn.bias": state["Mixed_3b.b0.bn.running_mean"]}
    assert i3d.tensor_digest(moved) != digest


@pytest.mark.parametrize("allow_unknown", [False, True])
def test_no_state_dict_runs_code(tmp_path, allow_unknown):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"Conv3d_1a_7x7.conv3d.weight": Code()}, tmp_path / "code.pt")
    with pytest.raises(ValueError, match="does not hold the weights of I3D"):
        I3D.from_file(tmp_path / "code.pt", allow_unknown=allow_unknown)
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_is_not_allowed_is_not_run(archive, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("read before its hash was looked at"))
    with pytest.raises(ValueError, match="unknown weights"):
        I3D.from_file(archive)


def test_a_torchscript_archive(archive):
    extractor = I3D.from_file(archive, allow_unknown=True)
    video = torch.rand(2, 3, 9, 224, 224)
    logits = extractor(video)
    assert torch.equal(logits, Archive()(2 * video - 1, return_features=True)) and logits.abs().sum() > 0
    for other in (copy.deepcopy(extractor), pickle.loads(pickle.dumps(extractor))):
        assert torch.equal(other(video), logits) and other.identity == extractor.identity
    with pytest.raises(ValueError, match="bn_eps=1e-05 cannot be set"):
        I3D.from_file(archive, allow_unknown=True, bn_eps=1e-5)


class OtherArguments(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :400]


class OtherAnswer(nn.Module):
    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        return x.mean(dim=(2, 3, 4))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    "network, message",
    [
        (OtherArguments, "file.pt cannot be called as i3d_torchscript.pt is, with .*: .*at most 2 argument"),
        (OtherAnswer, r"file.pt gives \(1, 3\) for one video, i3d_torchscript.pt gives \(1, 400\)"),
    ],
)
def test_another_program_is_refused_before_it_is_needed(tmp_path, network, message):
    torch.jit.script(network()).save(str(tmp_path / "file.pt"))
    with pytest.raises(UserError, match=message):
        I3D.from_file(tmp_path / "file.pt", allow_unknown=True)


def test_files_that_hold_something_else(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pt: put i3d_torchscript.pt .sha256 bec6519f.*nothing is down"):
        I3D.from_file(tmp_path / "nowhere.pt")
    state = random_state_dict()
    del state["Mixed_5b.b2b.bn.bias"]
    torch.save(state, tmp_path / "short.pt")
    torch.save(random_state_dict() | {"more": torch.zeros(1)}, tmp_path / "long.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "half.pt").write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "empty.pt").touch()
    torch.save([1, 2], tmp_path / "list.pt")
    for name, reason in (("short", "missing: Mixed_5b.b2b.bn.bias"), ("long", "left over: more")):
        with pytest.raises(ValueError, match=f"{name}.pt does not hold the weights of I3D.*{reason}"):
            I3D.from_file(tmp_path / f"{name}.pt", allow_unknown=True)
    for name in ("text", "half", "empty", "list"):
        with pytest.raises(ValueError, match=f"{name}.pt does not hold the weights of I3D"):
            I3D.from_file(tmp_path / f"{name}.pt", allow_unknown=True)


@pytest.mark.parametrize(
    "video, message",
    [
        (torch.rand(1, 3, 8, 224, 224), "at least 9 frames of 224 x 224, got .1, 3, 8,"),
        (torch.rand(1, 9, 3, 32, 32), "must be .B, 3, T, H, W., got .1, 9, 3"),
        (torch.rand(3, 9, 32, 32), "must be .B, 3, T, H, W."),
        (torch.rand(0, 3, 9, 32, 32), "must be .B, 3, T, H, W."),
        (torch.rand(1, 3, 9, 32, 40), "square videos, crop them first"),
        (torch.zeros(1, 3, 9, 32, 32, dtype=torch.uint8), "must be float in .0, 1., got torch.uint8"),
        (torch.rand(1, 3, 9, 32, 32) * 2 - 1, "must lie in .0, 1., got .-"),
        (torch.rand(1, 3, 9, 32, 32) * 255, "must lie in .0, 1., got"),
        (torch.full((1, 3, 9, 32, 32), torch.nan), "must lie in .0, 1., got .nan"),
    ],
)
def test_what_it_does_not_take(video, message):
    with pytest.raises(ValueError, match=message):
        I3D(Recorder(), UNKNOWN)(video)


def test_prepared_videos_must_be_prepared():
    extractor = I3D(Recorder(), UNKNOWN)
    for video, message in (
        (torch.rand(1, 3, 9, 112, 112), "224 x 224, got"),
        (torch.rand(1, 3, 9, 224, 224) * 3, "must lie in .-1, 1.,"),
    ):
        with pytest.raises(ValueError, match=message):
            extractor.logits(video)
