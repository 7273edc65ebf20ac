"""PSNR and SSIM against numbers of the published evaluation code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from autoencoder.metrics import VideoPSNR, VideoSSIM

FIXTURES = Path(__file__).parent / "data" / "metrics"


def fixture(name: str) -> tuple[torch.Tensor, torch.Tensor, dict[str, np.ndarray]]:
    """Prediction and target (B, 3, T, H, W) in [0, 1], and the expected values."""
    stored = dict(np.load(FIXTURES / f"recon_{name}.npz"))
    prediction, target = (torch.from_numpy(stored.pop(key)).float() / 255 for key in ("x", "y"))
    return prediction, target, stored


@pytest.mark.parametrize("name", ["small", "vid64", "pool384"])
@pytest.mark.parametrize("metric, key, tolerance", [(VideoPSNR, "psnr", 1e-4), (VideoSSIM, "ssim", 1e-5)])
def test_equal_to_the_published_evaluation(name, metric, key, tolerance):
    prediction, target, expected = fixture(name)
    value = metric()(prediction, target)
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(float(expected[key]), abs=tolerance)
    frames = (video.transpose(1, 2).flatten(0, 1) for video in (prediction, target))
    np.testing.assert_allclose(metric().per_frame(*frames).numpy(), expected[f"{key}_per_frame"], atol=tolerance)


def test_other_protocols_would_be_noticed():
    prediction, target, expected = fixture("small")
    assert abs(float(VideoPSNR()(prediction, target)) - float(expected["psnr_pooled_tm_default"])) > 0.1
    assert abs(float(VideoSSIM()(prediction, target)) - float(expected["ssim_tm_default"])) > 0.01


@pytest.mark.parametrize("metric", [VideoPSNR, VideoSSIM])
def test_autocast_changes_nothing(metric):
    prediction, target, _ = fixture("small")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = metric()(prediction, target)
    assert float(value) == float(metric()(prediction, target))


def test_identical_frames():
    video = torch.rand(1, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    assert float(VideoPSNR()(video, video)) == pytest.approx(80.0, abs=1e-4)
    assert float(VideoSSIM()(video, video)) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("metric", [VideoPSNR, VideoSSIM])
def test_uneven_shards_add_up_to_the_whole(metric):
    prediction, target, _ = fixture("vid64")
    whole = metric()(prediction, target)
    shards = [metric(), metric()]
    shards[0].update(prediction[:1], target[:1])
    shards[0].update(prediction[1:, :, :3], target[1:, :, :3])
    shards[1].update(prediction[1:, :, 3:], target[1:, :, 3:])
    assert shards[0].num_frames == 11 and shards[1].num_frames == 5
    shards[0].merge_state(shards[1])
    torch.testing.assert_close(shards[0].compute(), whole, rtol=1e-7, atol=0)
    shards[0].reset()
    assert shards[0].num_frames == 0


@pytest.mark.parametrize("metric", [VideoPSNR, VideoSSIM])
def test_bad_input(metric):
    video = torch.rand(1, 3, 2, 16, 16)
    with pytest.raises(ValueError, match=r"\(1, 3, 2, 16, 16\) and \(1, 3, 2, 16, 8\)"):
        metric().update(video, video[..., :8])
    with pytest.raises(ValueError, match=r"must both be \(B, 3, T, H, W\), got \(3, 2, 16, 16\)"):
        metric().update(video[0], video[0])
    with pytest.raises(ValueError, match=r"got \(1, 2, 3, 16, 16\)"):
        metric().update(video.transpose(1, 2), video.transpose(1, 2))
    with pytest.raises(ValueError, match=r"prediction must lie in \[0, 1\], got \[-"):
        metric().update(2 * video - 1.5, video)
    with pytest.raises(ValueError, match=r"target must lie in \[0, 1\]"):
        metric().update(video, torch.full_like(video, float("nan")))
    with pytest.warns(UserWarning, match="before"), pytest.raises(ValueError, match=f"{metric.__name__} has seen no"):
        metric().compute()


def test_ssim_names_frames_that_are_too_small():
    with pytest.raises(ValueError, match="at least 11 x 11, got 10 x 16"):
        VideoSSIM().update(torch.zeros(1, 3, 1, 10, 16), torch.zeros(1, 3, 1, 10, 16))
