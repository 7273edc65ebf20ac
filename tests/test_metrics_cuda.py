"""Metrics, whole videos and the latent cache on fake CUDA: no operation mixes devices, and nothing waits needlessly.

What a metric computes has to reach the host; no update waits for the device.
"""

import numpy as np
import pytest
import torch
from fakecuda import FakeCuda
from tiny_models import tiny_vae
from torch import nn
from video_files import HEIGHT, WIDTH, make_video

from autoencoder.common.device import to_device
from autoencoder.metrics import (
    I3D,
    FrechetVideoDistance,
    KernelVideoDistance,
    VideoLPIPS,
    VideoPSNR,
    VideoSSIM,
    reconstruction,
)
from autoencoder.metrics.i3d_network import I3DNetwork
from autoencoder.metrics.lpips import Lpips
from autoencoder.whole_videos.clips import decode_frames, encode_frames
from autoencoder.whole_videos.encoded_video import decode_video, encode_video
from autoencoder.whole_videos.listed_videos import ListedVideo
from autoencoder.whole_videos.scores import Evaluation, Protocol
from autoencoder.whole_videos.video_file import open_file
from generator import latent_cache
from generator.config import CacheConfig

HERE = "tests/test_metrics_cuda.py "
UNKNOWN = {"name": "a test", "sha256": "0", "known": False}
OF_FRAMES = "autoencoder/metrics/reconstruction.py "
# The number of frames, and the range of what was seen; the mean itself is read by whom asks for it.
COMPUTES = (OF_FRAMES + "compute: if int(self.num_frames) == 0:", OF_FRAMES + "_check_range: ")


def lpips_metric() -> VideoLPIPS:
    """Without a file of weights."""
    metric = VideoLPIPS.__new__(VideoLPIPS)
    reconstruction.FrameMetric.__init__(metric)
    metric._network = (Lpips().requires_grad_(False).eval(),)
    return metric


@pytest.mark.parametrize("make", [VideoPSNR, VideoSSIM, lpips_metric])
def test_metrics_of_frames(make):
    metric = make()
    with FakeCuda(integer=1) as gpu:
        metric = metric.to("cuda")
        if hasattr(metric, "_network"):
            metric._network[0].to("cuda")
        videos = torch.rand(2, 2, 3, 2, 32, 32, device="cuda")
        gpu.waits.clear()
        for _ in range(2):
            metric.update(*videos)
        metric.update_values(metric.frame_values(*videos.half().float()))
        gpu.assert_waits_only()
        assert metric.compute().device.type == "cuda"
    gpu.assert_waits_only(*COMPUTES)


@pytest.mark.parametrize("metric", [VideoPSNR, VideoSSIM])
@pytest.mark.parametrize("wrong, message", [(-0.1, "target must lie in"), (float("nan"), "target must lie in .*nan")])
def test_what_lies_outside_is_refused_by_compute_where_update_does_not_look(metric, wrong, message, monkeypatch):
    """On the CPU, told that it were another device."""
    metric, video = metric(), torch.rand(1, 3, 2, 16, 16)
    bad = video.clone()
    bad[0, 1, 1, 3, 3] = wrong
    monkeypatch.setattr(reconstruction, "AT_ONCE", ())
    metric.update(video, video)
    metric.update(video, bad)
    with pytest.raises(ValueError, match=message):
        metric.compute()
    metric.reset()
    metric.update(video, video)
    metric.compute()


class Pooled(nn.Module):
    num_features = 3

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return video.mean(dim=(2, 3, 4))


def small_i3d() -> I3D:
    with torch.device("meta"):
        network = I3DNetwork()
    return I3D(network.to_empty(device="cpu"), UNKNOWN)


@pytest.mark.parametrize("distance", [FrechetVideoDistance, KernelVideoDistance])
@pytest.mark.parametrize("extractor", [Pooled, small_i3d])
def test_distances_of_features(distance, extractor):
    metric = distance(extractor())
    with FakeCuda() as gpu:
        metric = metric.to("cuda")
        side = 224 if extractor is small_i3d else 8
        video = torch.zeros(2, 3, 9, side, side, dtype=torch.uint8)
        gpu.waits.clear()
        for real in (True, False):
            metric.update(video, real=real)  # from the host
            metric.update_features(metric.extract(video.to("cuda", non_blocking=True)), real=real)
        gpu.assert_waits_only(HERE + "test_distances_of_features: metric.update_features(metric.extract(video.to(")
        if distance is FrechetVideoDistance:  # whose sums leave the device, where fake ones are nothing but zeros
            statistics = metric._statistics("real")
            assert all(state.device.type == "cpu" for state in statistics.values())
            numbers = {name: torch.ones_like(state) * 2 for name, state in statistics.items()}
            metric._statistics = lambda *sides: numbers
        assert metric.compute().device.type == "cuda"
    gpu.assert_waits_only(
        HERE,
        "autoencoder/metrics/distance.py check_finite: ",
        "autoencoder/metrics/kernel.py _joined",
        "autoencoder/metrics/frechet.py ",
    )


@pytest.mark.parametrize("distance", [FrechetVideoDistance, KernelVideoDistance])
def test_features_that_are_not_finite_are_refused_by_compute_where_update_does_not_look(distance):
    metric = distance(Pooled())
    for real in (True, False):
        metric.update_features(torch.rand(4, 3), real=real)
    bad = torch.rand(4, 3)
    bad[2, 1] = float("inf")
    metric._add(bad.double(), "fake")  # what an update on a GPU comes to
    with pytest.raises(ValueError, match="not finite"):
        metric.compute()


def test_copies_to_the_device():
    clip = torch.arange(6, dtype=torch.uint8)
    assert to_device(clip, torch.device("cpu")) is clip
    with FakeCuda() as gpu:
        on_device = to_device(clip, torch.device("cuda", 0))
        assert on_device.device.type == "cuda" and to_device(on_device, on_device.device) is on_device
    gpu.assert_waits_only()


def frames_of(count: int, size: int = 16) -> list[torch.Tensor]:
    return list(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)))


def test_clips_of_a_video_wait_once_each_for_their_frames():
    vae = tiny_vae().eval()
    with FakeCuda() as gpu:
        vae.to("cuda")
        gpu.waits.clear()
        latents = list(encode_frames(vae, frames_of(10), overlap=1))
        gpu.assert_waits_only()
        frames = list(decode_frames(vae, latents, overlap=1))
    assert len(latents) == 3 and len(frames) == 10 and all(frame.device.type == "cpu" for frame in frames)
    gpu.assert_waits_only("autoencoder/whole_videos/clips.py decoded: ")
    assert gpu.count() == len(latents)


@pytest.fixture
def video_path(tmp_path):
    make_video(path := tmp_path / "video.mp4", 10)
    return path


def test_a_video_file_and_its_latents(video_path, monkeypatch):
    vae = tiny_vae().eval()
    monkeypatch.setattr("autoencoder.whole_videos.encoded_video.fingerprint", lambda model: "0")
    with FakeCuda() as gpu:
        vae.to("cuda")
        gpu.waits.clear()
        encoded = encode_video(vae, open_file(video_path), "pad", overlap=1)
        gpu.assert_waits_only("autoencoder/latents.py <lambda>: ")
        assert gpu.count() == 2 and encoded.latents.structure.device.type == "cpu"
        gpu.waits.clear()
        frames = list(decode_video(vae, encoded))
    assert len(frames) == 10 and frames[0].pixels.shape == (HEIGHT, WIDTH, 3)
    gpu.assert_waits_only("autoencoder/latents.py <lambda>: ", "autoencoder/whole_videos/clips.py decoded: ")
    assert gpu.count("autoencoder/latents.py") == 2 and gpu.count("autoencoder/whole_videos") == 3


def test_scores_of_a_video_leave_the_device_once(video_path):
    vae, metrics = (
        tiny_vae().eval(),
        {"psnr": VideoPSNR(sync_on_compute=False), "ssim": VideoSSIM(sync_on_compute=False)},
    )
    distance = FrechetVideoDistance(Pooled(), sync_on_compute=False)
    evaluation = Evaluation(vae, Protocol(None, 4, 16, batch_size=2), metrics, distance)
    scores = "autoencoder/whole_videos/scores.py "
    with FakeCuda(integer=1) as gpu:
        for module in (vae, distance, *metrics.values()):
            module.to("cuda")
        gpu.waits.clear()
        evaluation.add([(0, ListedVideo("video", video_path))])
    assert not evaluation.unreadable and len(evaluation.scores[0].clip_psnr) == 3
    found = evaluation.features[0]
    assert [side.shape for side in found] == [(3, 3)] * 2 and found[0].device.type == "cpu"
    once = (scores + "_score", scores + "<genexpr>", scores + "<dictcomp>", *COMPUTES)
    gpu.assert_waits_only(*once, "autoencoder/common/cost.py measure: torch.cuda.synchronize")
    assert max(gpu.waits[wait] for wait in gpu.waits if wait[0].startswith(once)) <= 8


@pytest.mark.parametrize("flip", [False, True])
def test_the_latent_cache_waits_once_for_a_shard(flip, tmp_path, monkeypatch):
    vae = tiny_vae(num_frames=8, sample_size=32).eval()
    config = CacheConfig(dataset="shapes", max_videos=6, shard_size=12, flip=flip)
    monkeypatch.setattr(latent_cache, "ENCODE_BATCH_SIZE", 2)
    monkeypatch.setattr(latent_cache, "fingerprint", lambda model: "0")
    monkeypatch.setattr("autoencoder.data.shapes.Shapes.flip_invariant", True)
    with FakeCuda() as gpu:
        vae.to("cuda")
        gpu.waits.clear()
        cache = latent_cache.build_cache(vae, config, tmp_path, progress=False)
    assert len(cache) == 6 * (1 + flip)
    gpu.assert_waits_only("generator/latent_cache.py ")
    assert gpu.count() == 2, "structure and dynamics of one shard of three batches"
