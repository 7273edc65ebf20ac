"""The guide of the dynamics latent: where in every frame the object of a clip is."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_vae

from autoencoder.common.errors import UserError
from autoencoder.data import Shapes, to_video
from autoencoder.latents import VidTwinLatents
from autoencoder.training.config import ExchangeConfig, GuideConfig, TrainConfig
from autoencoder.training.guide import centre_of_motion, guide_error, place_guide, teach
from autoencoder.training.module import VidTwinModule, flops_of_clip
from autoencoder.training.noise import LatentNoise
from autoencoder.vidtwin import AutoencoderVidTwin


def clips_and_paths(count):
    """Clips (B, 3, 8, 32, 32) of moving shapes and the paths of their objects, in pixels (B, 8, 2)."""
    clips = Shapes(8, 32)
    video = to_video(torch.stack([clips.clip(index) for index in range(count)]))
    return video, torch.from_numpy(np.stack([clips.motion(index).path for index in range(count)])).float()


def test_the_centre_follows_the_path_whatever_the_contrast():
    video, paths = clips_and_paths(20)
    centre, is_there = centre_of_motion(video, "plain")
    assert is_there.all()
    assert (32 * centre - paths).norm(dim=-1).max() < 0.2, "before a plain background it is exact"
    torch.testing.assert_close(centre_of_motion(0.3 * video + 0.2, "plain")[0], centre, atol=1e-4, rtol=0)
    still = (32 * centre_of_motion(video, "still")[0] - paths).norm(dim=-1)
    assert still.median() < 3, "where an object covers a pixel for half of the clip, the background is mistaken"


def test_a_background_with_a_pattern_is_told_by_its_stillness():
    pattern = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    video = pattern.repeat(1, 8, 1, 1)
    for frame in range(8):
        video[:, frame, 10:14, 3 * frame : 3 * frame + 4] += 1.0
    centre, _ = centre_of_motion(video[None], "still")
    expected = torch.stack([(3 * torch.arange(8) + 2) / 32, torch.full((8,), 12 / 32)], dim=-1)
    assert (32 * (centre[0] - expected)).abs().max() < 0.5
    assert (32 * (centre_of_motion(video[None], "plain")[0][0] - expected)).abs().max() > 2


def test_the_guide_tells_the_place_and_nothing_else():
    video, paths = clips_and_paths(20)
    guide = place_guide(video, 8, 4, "plain")
    assert guide.shape == (20, 2, 8, 16)
    along_x, along_y = guide.split(8, dim=-1)
    found = torch.stack([along_x[:, 0].argmax(-1), along_y[:, 0].argmax(-1)], dim=-1) + 0.5
    assert ((found - paths / 4).abs() < 0.55).all(), "the bump is highest in the stripe with the centre"
    at_peak = along_x[:, 1].gather(-1, along_x[:, :1].argmax(-1, keepdim=True)[:, 0])[..., 0]
    beyond = paths[..., 0] / 4 - found[..., 0]
    assert ((at_peak > 0) == (beyond > 0)).float().mean() > 0.97
    grown = torch.zeros(2, 3, 8, 32, 32)
    grown[0, 0, :, 14:18, 14:18] = 1.0
    grown[1, 2, :, 12:20, 12:20] = -0.5
    small, large = place_guide(grown, 8, 2, "plain")
    torch.testing.assert_close(small, large)
    assert place_guide(video, 8, 1, "plain").equal(guide[:, :1]), "one channel holds the bump alone"
    assert not place_guide(torch.zeros(1, 3, 8, 32, 32), 8, 2, "still").any(), "nothing moves"


def test_a_taught_latent_is_the_guide_and_then_its_own():
    latents = VidTwinLatents(torch.randn(2, 3, 1, 4, 4), torch.randn(2, 4, 8, 16))
    guide = torch.randn(2, 2, 8, 16)
    assert torch.equal(teach(latents, guide, 0.0).dynamics, latents.dynamics)
    taught = teach(latents, guide, 1.0)
    assert torch.equal(taught.structure, latents.structure)
    assert torch.equal(taught.dynamics[:, :2], guide) and torch.equal(taught.dynamics[:, 2:], latents.dynamics[:, 2:])
    half = teach(latents, guide, 0.5).dynamics[:, :2]
    torch.testing.assert_close(half, (guide + latents.dynamics[:, :2]) / 2)


def test_a_guide_fades():
    guide = GuideConfig(0.5, steps=2, decay_steps=4, taught_steps=1, taught_decay=2)
    assert [guide.weight_in(step) for step in (1, 2, 4, 6, 100)] == [0.5, 0.5, 0.25, 0.0, 0.0]
    assert [guide.taught_in(step) for step in (1, 2, 3, 100)] == [1.0, 0.5, 0.0, 0.0]
    assert GuideConfig(0.5).weight_in(100) == 0.5, "to the end"
    assert GuideConfig(0.5).taught_in(1) == 0.0 and not GuideConfig().is_on


def loss_of(vae, video, guide, *sources):
    """The training loss of a video in the first step, its terms, and its reconstruction."""
    noise = LatentNoise(0, vae.structure_shape, vae.dynamics_shape)([0, 1])
    config = TrainConfig(max_steps=10, batch_size=2, devices=1, dynamics_guide=guide)
    module = VidTwinModule(vae, config, num_files=2).eval()  # without dropout
    loss, terms, reconstruction = module._autoencoder_loss([video, *sources], noise, None, 0.0)
    assert terms["loss"] == loss
    return loss, terms, reconstruction


def test_the_guide_is_a_part_of_the_loss():
    vae = tiny_vae(num_frames=8, sample_size=32)
    video, _ = clips_and_paths(2)
    bare, terms, _ = loss_of(vae, video, GuideConfig())
    assert "guide" not in terms
    assert "guide" not in loss_of(vae, video, GuideConfig(0.5, steps=0))[1], "nothing is worked out once it has faded"
    guided, terms, _ = loss_of(vae, video, GuideConfig(0.5, background="plain"))
    channels, _, positions = vae.dynamics_shape
    guide = place_guide(video, positions // 2, channels, "plain")
    error = guide_error(vae.encode(video).latent_dist.mean.dynamics, guide)
    assert terms["guide"].item() == pytest.approx(error.item())
    assert (guided - bare).item() == pytest.approx(0.5 * 3 * 32 * 32 * error.item(), rel=1e-4)


def test_while_the_guide_is_decoded_dynamics_learns_from_it_alone():
    vae = tiny_vae(num_frames=8, sample_size=32)
    torch.nn.init.normal_(vae.decoder.proj_out.weight, std=0.1)
    video, _ = clips_and_paths(2)
    head = vae.dynamics_encoder.head
    for taught_steps, learns in ((0, True), (5, False)):
        _, _, reconstruction = loss_of(vae, video, GuideConfig(0.0, taught_steps=taught_steps, background="plain"))
        (gradient,) = torch.autograd.grad(reconstruction.square().sum(), head.weight, allow_unused=True)
        assert (gradient is not None and bool(gradient.any())) == learns


def test_both_latents_of_one_clip():
    """While the guide is decoded, the clip of structure teaches dynamics its own place, and is the only one encoded."""
    vae = tiny_vae(num_frames=8, sample_size=32)
    torch.nn.init.normal_(vae.decoder.proj_out.weight, std=0.1)
    videos, _ = clips_and_paths(6)
    video, companion, view = videos.split(2)
    guide = GuideConfig(0.5, taught_steps=5, taught_same_clip=True, background="plain")
    loss, terms, reconstruction = loss_of(vae, video, guide, companion, view)
    positions = vae.dynamics_shape[2] // 2
    told = vae.encode(companion).latent_dist.mean.dynamics
    error = guide_error(told, place_guide(companion, positions, 2, "plain"))
    assert terms["guide"].item() == pytest.approx(error.item())
    other, _, same = loss_of(vae, video, guide, companion, torch.randn_like(view))
    assert other == loss and torch.equal(same, reconstruction), "the other source plays no part"
    guide.taught_same_clip = False
    _, terms, as_before = loss_of(vae, video, guide, companion, view)
    torch.testing.assert_close(as_before, reconstruction)
    assert terms["guide"].item() != pytest.approx(error.item())
    for decay in (0, 4):  # once dynamics itself is decoded, it is read from its own source again
        guide = GuideConfig(0.5, taught_decay=decay, taught_same_clip=True)
        loss, *_ = loss_of(vae, video, guide, companion, view)
        other, *_ = loss_of(vae, video, guide, companion, video)
        assert other != loss


def test_one_clip_costs_less():
    vae = tiny_vae(num_frames=8, sample_size=32)
    exchange, counts = ExchangeConfig(share=1.0), []
    for taught_steps, same_clip in ((0, True), (5, True), (20, True), (20, False)):
        guide = GuideConfig(0.5, taught_steps=taught_steps, taught_same_clip=same_clip)
        config = TrainConfig(max_steps=10, devices=1, exchange=exchange, dynamics_guide=guide)
        counts.append(flops_of_clip(vae, config))
    without = flops_of_clip(vae, TrainConfig(max_steps=10, devices=1))
    assert counts[0] == counts[3] and counts[2] == without and counts[1] == (counts[0] + without) / 2


def test_the_guide_teaches_dynamics_the_place():
    vae = tiny_vae(num_frames=8, sample_size=32)
    video, _ = clips_and_paths(8)
    channels, _, positions = vae.dynamics_shape
    guide = place_guide(video, positions // 2, channels, "plain")
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    errors = []
    for _ in range(60):
        error = guide_error(vae.encode(video).latent_dist.mean.dynamics, guide)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.7 * errors[0]


def test_wrong_guides():
    with pytest.raises(UserError, match="dynamics_guide.steps must be at least 0, got -1"):
        GuideConfig(1.0, steps=-1)
    with pytest.raises(UserError, match="dynamics_guide.taught_steps must be at least 0, got -2"):
        GuideConfig(1.0, taught_steps=-2)
    config = {name: value for name, value in tiny_vae().config.items() if not name.startswith("_")}
    blind = AutoencoderVidTwin(**config | {"dynamics_channels": 0})
    for guide in (GuideConfig(0.5), GuideConfig(taught_steps=3)):
        with pytest.raises(UserError, match="no dynamics latent to guide, its dynamics_channels are 0"):
            VidTwinModule(blind, TrainConfig(devices=1, dynamics_guide=guide), num_files=2)
    wide = AutoencoderVidTwin(**config | {"dynamics_channels": 3})
    with pytest.raises(UserError, match="of the model's dynamics_channels=3 the guide has 2"):
        guide = GuideConfig(taught_steps=3, taught_same_clip=True)
        VidTwinModule(wide, TrainConfig(devices=1, dynamics_guide=guide), num_files=2)
