"""Noise on the latents in stage one: what is drawn, that a step applies it, and that runs resume with it."""

import shutil
from pathlib import Path

import pytest
import torch
from test_autoencoder_train import arguments
from tiny_models import tiny_vae

from autoencoder import VidTwinLatents
from autoencoder import train as train_command
from autoencoder.data import Shapes, to_video
from autoencoder.training import fit
from autoencoder.training.config import InterpolatingNoiseConfig, TrainConfig
from autoencoder.training.module import VidTwinModule
from autoencoder.training.noise import LatentNoise, add_noise, interpolate

SHAPES = (2, 8, 16, 16), (2, 32, 64)


def make_latents(count: int, scale: float = 1.0) -> VidTwinLatents:
    generator = torch.Generator().manual_seed(0)
    return VidTwinLatents(*(scale * torch.randn(count, *shape, generator=generator) for shape in SHAPES))


def interpolating(positions, batch_size: int = 1, **config) -> tuple[torch.Tensor, ...] | None:
    noise = LatentNoise(0, *SHAPES, interpolating=InterpolatingNoiseConfig(**config), batch_size=batch_size)
    return noise(list(positions)).get("interpolation")


def test_noise_on_latents():
    latents = VidTwinLatents(torch.zeros(3, 2, 8, 16, 16), torch.zeros(3, 2, 32, 64))
    noise = LatentNoise(0, (2, 8, 16, 16), (2, 32, 64), max_level=0.5)
    noisy = add_noise(latents, noise([5, 6, 7])["latents"])
    levels = noisy.structure.flatten(1).std(1)
    assert levels.max() < 0.55 and levels.max() - levels.min() > 0.02
    torch.testing.assert_close(noisy.dynamics.flatten(1).std(1), levels, rtol=0.1, atol=0)
    alone = add_noise(latents[1], noise([6])["latents"])
    assert torch.equal(alone.structure, noisy.structure[1:2]) and torch.equal(alone.dynamics, noisy.dynamics[1:2])


def test_a_share_of_the_latents_is_noise_of_their_own_scale():
    latents = make_latents(3, scale=5.0)
    latents = VidTwinLatents(latents.structure, latents.dynamics / 10)
    shares, *noise = interpolating([5, 6, 7], level=0.5, strength=3.0)
    mixed = interpolate(latents, shares, *noise)
    for clip, share in enumerate(shares):
        for found, part, eps in zip(
            (mixed.structure, mixed.dynamics), (latents.structure, latents.dynamics), noise, strict=True
        ):
            scale = part[clip].square().mean().sqrt()
            torch.testing.assert_close(found[clip], (1 - share) * part[clip] + share * scale * eps[clip])
            assert abs(eps[clip].std() - 3) < 0.2
    assert len(shares.unique()) == 3
    alone = interpolate(latents[1], *interpolating([6], level=0.5, strength=3.0))
    assert torch.equal(alone.structure, mixed.structure[1:2]) and torch.equal(alone.dynamics, mixed.dynamics[1:2])


def test_shares_are_uniform_up_to_the_level():
    shares, *_ = interpolating(range(500), batch_size=500, level=0.4)
    assert 0 <= shares.min() < 0.02 and 0.38 < shares.max() <= 0.4 and abs(shares.mean() - 0.2) < 0.02


def test_the_level_rises_from_its_start():
    levels = {"level": 1.0, "start": 2, "warmup_steps": 4}
    steps = [interpolating(range(50 * step, 50 * step + 50), batch_size=50, **levels) for step in range(8)]
    assert steps[0] is None and steps[1] is None
    highest = [shares.max().item() for shares, *_ in steps[2:]]
    assert highest == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0], abs=0.1)
    assert interpolating([0]) is None


def test_growing_does_not_make_a_latent_less_noisy():
    """Neither by its values nor by its gradient."""
    latents, noise = make_latents(2), interpolating([0, 1], level=1.0)
    factor, probe = torch.tensor(2.0, requires_grad=True), make_latents(2).structure.flip(0)
    grown = interpolate(latents.map(lambda part: factor * part), *noise).structure
    mixed = interpolate(latents, *noise).structure
    torch.testing.assert_close(grown, 2 * mixed)
    (grown * probe).sum().backward()
    torch.testing.assert_close(factor.grad, (mixed * probe).sum(), rtol=1e-4, atol=1e-2)


def test_an_autoencoder_without_dynamics_is_served():
    latents = VidTwinLatents(make_latents(2).structure.requires_grad_(), torch.zeros(2, 0, 32, 64))
    shares, structure, dynamics = interpolating([0, 1], level=1.0)
    mixed = interpolate(latents, shares, structure, dynamics[:, :0])
    mixed.structure.sum().backward()
    assert mixed.dynamics.shape == (2, 0, 32, 64) and latents.structure.grad.isfinite().all()


def test_a_step_decodes_the_interpolated_latents():
    noise_config = InterpolatingNoiseConfig(level=0.5)
    vae = tiny_vae(num_frames=8, sample_size=32)
    torch.nn.init.normal_(vae.decoder.proj_out.weight, std=0.1)
    config = TrainConfig(max_steps=10, batch_size=2, devices=1, interpolating_noise=noise_config)
    module = VidTwinModule(vae, config, num_files=2).eval()  # without dropout
    video = to_video(torch.stack([Shapes(8, 32).clip(index) for index in range(2)]))
    noise = fit._latent_noise(config, vae)([0, 1])
    _, _, reconstruction = module._autoencoder_loss([video], noise, None, 0.0)
    drawn = vae.encode(video).latent_dist.sample(noise=VidTwinLatents(*noise["posterior"]))
    expected = vae.decode(interpolate(drawn, *noise["interpolation"])).sample
    torch.testing.assert_close(reconstruction, expected, rtol=1e-4, atol=1e-5)
    assert (vae.decode(drawn).sample - reconstruction).abs().max() > 1e-3


def trained(folder: Path, *more: str, **flags) -> dict[str, torch.Tensor]:
    """The weights after a run."""
    config, model, run_folder, text = train_command.parse([*arguments(folder, max_steps=4, **flags), *more])
    with run_folder.held(text, config.resume):
        fit.train(config, model, run_folder)
    return model.state_dict()


def test_off_or_not_yet_on_a_run_has_the_same_bits_and_else_not(tmp_path):
    plain = trained(tmp_path / "plain")
    late = trained(tmp_path / "late", "--interpolating-noise.level=1", "--interpolating-noise.start=4")
    on = trained(tmp_path / "on", "--interpolating-noise.level=1", "--interpolating-noise.start=3")
    assert all(torch.equal(late[name], plain[name]) for name in plain)
    assert not all(torch.equal(on[name], plain[name]) for name in plain)


def test_resumes_to_the_bit(tmp_path):
    noise = {"interpolating_noise.level": 0.5, "interpolating_noise.start": 1, "interpolating_noise.warmup_steps": 2}
    expected = trained(tmp_path / "run", checkpoint_every=2, **noise)
    shutil.rmtree(tmp_path / "run/model")
    (tmp_path / "run/checkpoints/step-00000004").unlink()
    resumed = trained(tmp_path / "run", "--resume", checkpoint_every=2, **noise)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"level": 1.5}, r"interpolating_noise.level must lie in \[0, 1\], got 1.5"),
        ({"strength": -1.0}, "interpolating_noise.strength must be at least 0, got -1.0"),
        ({"start": -1}, "interpolating_noise.start must be at least 0, got -1"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        InterpolatingNoiseConfig(**settings)
