"""The guide of the dynamics latent: where and when a clip moves."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_vae

from autoencoder.common.errors import UserError
from autoencoder.data import Shapes, to_video
from autoencoder.training.config import GuideConfig, TrainConfig
from autoencoder.training.guide import guide_error, motion_profile
from autoencoder.training.module import VidTwinModule
from autoencoder.training.noise import LatentNoise
from autoencoder.vidtwin import AutoencoderVidTwin


def test_the_profile_follows_the_path_whatever_the_contrast():
    clips = Shapes(16, 32)
    video = to_video(torch.stack([clips.clip(index) for index in range(20)]))
    profile = motion_profile(video, 8)
    assert profile.shape == (20, 16, 16)
    torch.testing.assert_close(profile, motion_profile(0.3 * video + 0.2, 8), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(profile.mean((1, 2)), torch.zeros(20), atol=1e-5, rtol=0)
    torch.testing.assert_close(profile.std((1, 2), correction=0), torch.ones(20))
    paths = np.stack([clips.motion(index).path for index in range(20)]) / 4  # in stripes
    found = np.stack([half.argmax(-1) + 0.5 for half in profile.split(8, dim=-1)], axis=-1)
    assert np.median(np.abs(found - paths)) < 1
    assert not motion_profile(video[:, :, :1].expand_as(video), 8).any(), "a clip at rest has no profile"


def test_a_guide_fades_and_is_a_part_of_the_loss():
    guide = GuideConfig(0.5, steps=2, decay_steps=4)
    assert [guide.weight_in(step) for step in (1, 2, 4, 6, 100)] == [0.5, 0.5, 0.25, 0.0, 0.0]
    assert GuideConfig(0.5).weight_in(100) == 0.5, "to the end"
    vae = tiny_vae(num_frames=8, sample_size=32)
    video = to_video(torch.stack([Shapes(8, 32).clip(index) for index in range(2)]))
    noise = LatentNoise(0, vae.structure_shape, vae.dynamics_shape)([0, 1])
    losses = {}
    for weight in (0.0, 0.5):
        config = TrainConfig(max_steps=10, batch_size=2, devices=1, dynamics_guide=GuideConfig(weight, steps=1))
        module = VidTwinModule(vae, config, num_files=2).eval()  # without dropout
        losses[weight], terms, _ = module._autoencoder_loss([video], noise, None, 0.0)
        assert terms["loss"] == losses[weight] and ("guide" in terms) == bool(weight)
    error = guide_error(vae.encode(video).latent_dist.mean.dynamics, video)
    assert (losses[0.5] - losses[0.0]).item() == pytest.approx(0.5 * 3 * 32 * 32 * error.item(), rel=1e-4)


def test_the_guide_teaches_dynamics_the_place():
    vae = tiny_vae(num_frames=8, sample_size=32)
    video = to_video(torch.stack([Shapes(8, 32).clip(index) for index in range(8)]))
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    errors = []
    for _ in range(60):
        error = guide_error(vae.encode(video).latent_dist.mean.dynamics, video)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.7 * errors[0]


def test_wrong_guides():
    with pytest.raises(UserError, match="dynamics_guide.steps must be at least 0, got -1"):
        GuideConfig(1.0, steps=-1)
    config = {name: value for name, value in tiny_vae().config.items() if not name.startswith("_")}
    blind = AutoencoderVidTwin(**config | {"dynamics_channels": 0})
    with pytest.raises(UserError, match=r"dynamics_guide.weight=0.5: the model has no dynamics latent to guide"):
        VidTwinModule(blind, TrainConfig(devices=1, dynamics_guide=GuideConfig(0.5)), num_files=2)
