"""LPIPS against torchmetrics' own network, with random weights for VGG-16."""

import hashlib
import pickle
import urllib.error

import pytest
import torch
import torchvision
from einops import rearrange
from torch import nn
from torchmetrics.functional.image.lpips import _NoTrainLpips

from autoencoder.metrics import VideoLPIPS, lpips
from autoencoder.metrics.lpips import VGG16_FILE, load_vgg16, lpips_network, vgg16_identity
from autoencoder.training.losses import VidTwinLoss


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    """VGG-16 with random weights; its classifier, which LPIPS has no use for, is large and left out."""
    torch.manual_seed(0)
    with torch.device("meta"):
        vgg = torchvision.models.vgg16()
    vgg.classifier = nn.Identity()
    vgg.to_empty(device="cpu")
    for parameter in vgg.parameters():
        nn.init.normal_(parameter, std=0.03)
    return vgg


def videos(frames: int = 3, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(2, 3, frames, side, side, generator=generator) for _ in range(2))


def torchmetrics_network(vgg: nn.Module) -> nn.Module:
    """torchmetrics' network as it builds it, its VGG overwritten layer by layer."""
    network = _NoTrainLpips(net="vgg", pnet_rand=True)
    for part in network.net.children():
        for name, parameter in part.named_parameters():
            parameter.data = vgg.features.get_parameter(name).data
    return network


def test_equal_to_torchmetrics(vgg):
    prediction, target = videos()
    network = torchmetrics_network(vgg)
    pairs = [rearrange(video, "b c t h w -> (b t) c h w") for video in (prediction, target)]
    expected = network(*pairs, normalize=True).flatten()
    assert expected.min() > 1e-4 and expected.std() > 1e-6
    metric = VideoLPIPS(vgg)
    torch.testing.assert_close(metric.per_frame(*pairs), expected, rtol=1e-5, atol=0)
    value = metric(prediction, target)
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(expected.double().mean().item(), rel=1e-6)
    assert float(metric(target, target)) == 0
    assert metric.num_frames == 12 and float(metric.compute()) == pytest.approx(float(value) / 2, rel=1e-12)


def test_network_is_frozen_and_passes_gradients_on(vgg):
    state = torch.get_rng_state()
    network = lpips_network(vgg)
    assert torch.equal(torch.get_rng_state(), state), "building it must draw nothing"
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.train().training
    image = torch.zeros(2, 3, 16, 16, requires_grad=True)
    distances = network(image, torch.ones(2, 3, 16, 16))
    assert distances.shape == (2,)
    distances.sum().backward()
    assert image.grad.abs().max() > 0
    VidTwinLoss(lpips_weight=0.05, lpips=network)  # takes frozen networks only
    with pytest.raises(ValueError, match=r"at least 16, got \(2, 3, 8, 16\)"):
        network(image[:, :, :8], image[:, :, :8])


def test_metric_holds_no_weights_and_merges_like_the_others(vgg):
    prediction, target = videos(frames=4)
    whole, shards = VideoLPIPS(vgg), [VideoLPIPS(vgg), pickle.loads(pickle.dumps(VideoLPIPS(vgg)))]
    assert not list(whole.parameters()) and not whole.state_dict() and not whole.higher_is_better
    whole.update(prediction, target)
    shards[0].update(prediction[:, :, :1], target[:, :, :1])
    shards[1].update(prediction[:, :, 1:], target[:, :, 1:])
    shards[0].merge_state(shards[1])
    assert shards[0].num_frames == 8
    torch.testing.assert_close(shards[0].compute(), whole.compute(), rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match=r"prediction must lie in \[0, 1\]"):
        whole.update(2 * prediction - 1, target)


def test_weights_from_a_file(vgg, tmp_path, monkeypatch):
    path = tmp_path / VGG16_FILE
    torch.save(vgg.state_dict() | {"classifier.0.weight": torch.zeros(2, 2)}, path)
    prediction, target = videos(frames=1)
    expected = VideoLPIPS(vgg)(prediction, target)
    assert torch.equal(VideoLPIPS(path)(prediction, target), expected)
    assert vgg16_identity(path).startswith("sha256 ") and vgg16_identity(path).endswith(
        f"not torchvision's {VGG16_FILE}"
    )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(lpips, "VGG16_SHA256", digest[:8] + "0" * 56)  # torchvision itself compares so many digits
    assert "not torchvision's" in vgg16_identity(path)
    monkeypatch.setattr(lpips, "VGG16_SHA256", digest)
    assert vgg16_identity(path) == f"sha256 {digest}"

    broken = tmp_path / "broken.pth"
    state = vgg.state_dict()
    del state["features.28.bias"]
    for content, reason in ((state, "missing: features.28.bias"), ([1], "type list")):
        torch.save(content, broken)
        with pytest.raises(ValueError, match=f"broken.pth does not hold the weights of VGG-16.*{reason}"):
            load_vgg16(broken)
    broken.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="broken.pth does not hold"):
        load_vgg16(broken)
    with pytest.raises(FileNotFoundError, match=f"missing.pth: give the path of torchvision's {VGG16_FILE}"):
        load_vgg16(tmp_path / "missing.pth")


def test_download(vgg, tmp_path, monkeypatch, without_weights):
    """Without installed weights, a file in torch's cache, and a network there is one error, and no random weights."""

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{VGG16_FILE} is not there.*no route to host.*Put the file there"):
        VideoLPIPS()
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    torch.save(vgg.state_dict(), tmp_path / "checkpoints" / VGG16_FILE)
    assert VideoLPIPS().num_frames == 0
