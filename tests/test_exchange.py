"""Exchange training: what the latents of a sample are read from, and that a step reads them there."""

import numpy as np
import pytest
import torch
from test_autoencoder_train import arguments
from tiny_models import tiny_vae

from autoencoder import train as train_command
from autoencoder.common.errors import UserError
from autoencoder.data import Shapes, to_video
from autoencoder.data.stream import PositionSampler, collate
from autoencoder.data.video_io import UnreadableVideo
from autoencoder.data.views import ViewChange
from autoencoder.metrics.oracle import oracle
from autoencoder.training import fit
from autoencoder.training.config import AugmentationConfig, ExchangeConfig, KLConfig, TrainConfig
from autoencoder.training.exchange import KEPT, SOURCES, Exchange, ExchangedClips
from autoencoder.training.losses import VidTwinLoss
from autoencoder.training.module import VidTwinModule
from autoencoder.training.noise import LatentNoise

BATCH_SIZE = 4


class Numbered:
    """A data set whose clip i is full of i, its companion of 100 + i and, of the clip itself, of 200 + i."""

    class_names, flip_invariant = (), True

    def __len__(self) -> int:
        return 50

    def label(self, index: int) -> int:
        return -1

    def clip(self, index: int, rng: np.random.Generator | None = None) -> torch.Tensor:
        return torch.full((2, 4, 4, 3), index, dtype=torch.uint8)

    def companion(self, index: int, rng: np.random.Generator, same_clip: bool = False) -> torch.Tensor:
        clip = self.clip(index) + (200 if same_clip else 100)
        clip[:, :, 0] = 255  # the left edge
        return clip


def samples(config: ExchangeConfig, steps: int, flip: bool = False) -> list[list[dict]]:
    """Of every step."""
    clips = ExchangedClips(Numbered(), 0, flip, Exchange(config, 0, BATCH_SIZE))
    sampler = iter(PositionSampler(len(clips), BATCH_SIZE, seed=0))
    return [[clips[place]["sample"] for place in next(sampler)] for _ in range(steps)]


def share_of_companions(step: list[dict]) -> float:
    return np.mean([not torch.equal(sample["structure_source"], sample["video"]) for sample in step])


@pytest.mark.parametrize("companion, offset", [("content", 100), ("clip", 200)])
def test_structure_is_read_from_a_companion(companion, offset):
    for step in samples(ExchangeConfig(share=1.0, companion=companion), 3):
        for sample in step:
            assert (sample["structure_source"][:, :, 1:] == sample["video"][:, :, 1:] + offset).all()
            assert torch.equal(sample["dynamics_source"], sample["video"])


def test_the_share_rises_from_its_start():
    steps = samples(ExchangeConfig(share=0.5, start=2, warmup_steps=100), 302)
    assert not any(source in sample for step in steps[:2] for sample in step for source in SOURCES)
    means = [np.mean([share_of_companions(step) for step in steps[first : first + 100]]) for first in (2, 102, 202)]
    assert means == pytest.approx([0.25, 0.5, 0.5], abs=0.1)


def test_dynamics_is_left_out_less_and_less():
    config = ExchangeConfig(structure_only=0.5, structure_only_steps=100, structure_only_decay=200)
    steps = samples(config, 301)
    kept = np.array([[sample.get(KEPT, torch.ones(())).item() for sample in step] for step in steps[:300]])
    assert 1 - kept.reshape(3, -1).mean(axis=1) == pytest.approx([0.5, 0.375, 0.125], abs=0.12)
    assert not any(KEPT in sample or SOURCES[0] in sample for sample in steps[300])


def test_structure_of_the_other_samples_is_read_from_another_moment():
    offsets = []
    for step in samples(ExchangeConfig(share=0.25, moment_share=0.5), 100):
        for sample in step:
            offsets.append((sample["structure_source"] - sample["video"])[0, 0, 1, 0].item())
    shares = {offset: offsets.count(offset) / len(offsets) for offset in set(offsets)}
    assert shares == pytest.approx({100: 0.25, 200: 0.375, 0: 0.375}, abs=0.06)


def test_a_companion_is_mirrored_as_its_target_is():
    mirrored = 0
    for step in samples(ExchangeConfig(share=1.0), 10, flip=True):
        for sample in step:
            edge = (sample["structure_source"][0, 0] == 255).all(dim=1).nonzero().item()
            assert edge in (0, 3)
            mirrored += edge == 3
    assert 0 < mirrored < 40  # the targets are plain, so only that both are found can be seen here


def test_a_mirrored_target_has_a_mirrored_companion():
    class Ramps(Numbered):
        def clip(self, index, rng=None):
            return super().clip(index) + torch.arange(4, dtype=torch.uint8)[:, None]

        def companion(self, index, rng, same_clip=False):
            return self.clip(index) + 100

    clips = ExchangedClips(Ramps(), 0, True, Exchange(ExchangeConfig(share=1.0), 0, BATCH_SIZE))
    for position in range(20):
        sample = clips[position, position]["sample"]
        assert torch.equal(sample["structure_source"], sample["video"] + 100)


def test_a_companion_is_augmented_as_its_target_is():
    class Twins(Numbered):
        def clip(self, index, rng=None):
            return torch.arange(8 * 8 * 3, dtype=torch.uint8).view(1, 8, 8, 3).expand(4, 8, 8, 3)

        def companion(self, index, rng, same_clip=False):
            return self.clip(index)

    augmentation = ViewChange(0.4, 0.0, 0.2, 0.1)
    clips = ExchangedClips(Twins(), 0, False, Exchange(ExchangeConfig(share=1.0), 0, BATCH_SIZE), augmentation)
    found = [clips[position, 0]["sample"] for position in range(20)]
    assert all(torch.equal(sample["structure_source"], sample["video"]) for sample in found)
    assert len({sample["video"].numpy().tobytes() for sample in found}) == 20, "each is drawn anew"
    assert torch.equal(clips[3, 0]["sample"]["video"], found[3]["video"]), "by its position alone"
    changes = [(sample["video"].float() - Twins().clip(0)).abs().mean() for sample in found]
    assert min(changes) < max(changes) / 3, "from next to none to the full change"


def test_a_companion_that_cannot_be_read_counts_against_no_video():
    class Damaged(Numbered):
        def companion(self, index, rng, same_clip=False):
            if not same_clip and rng.random() < 0.9:
                raise UnreadableVideo("another file: damaged")
            return super().companion(index, rng, same_clip)

    clips = ExchangedClips(Damaged(), 0, False, Exchange(ExchangeConfig(share=1.0), 0, BATCH_SIZE))
    items = [clips[position, position] for position in range(40)]
    assert not any(item["unreadable"] for item in items)
    offsets = {(item["sample"]["structure_source"] - item["sample"]["video"])[0, 0, 1, 0].item() for item in items}
    assert offsets == {100, 200}, "of the content where a draw can be read, else of the video itself"


def test_sources_depend_on_the_position_alone():
    config = ExchangeConfig(share=0.5, view_share=0.5, blur=1.0, scale=0.2)
    clips = ExchangedClips(Shapes(8, 32), 3, False, Exchange(config, 3, BATCH_SIZE))
    later = clips[17, 5]["sample"]
    for position in range(4):
        clips[position, 5]
    again, other = clips[17, 5]["sample"], clips[18, 5]["sample"]
    assert all(torch.equal(later[name], again[name]) for name in SOURCES)
    assert not all(torch.equal(later[name], other[name]) for name in SOURCES)


def test_views_grow_from_none_to_full_strength():
    config = ExchangeConfig(view_share=1.0, view_start=1, view_warmup_steps=1000)
    clips = ExchangedClips(Shapes(8, 32), 0, False, Exchange(config, 0, BATCH_SIZE))

    def change(step: int) -> float:
        found = [clips[BATCH_SIZE * (step - 1) + place, place]["sample"] for place in range(BATCH_SIZE)]
        pairs = ((sample["dynamics_source"].float(), sample["video"].float()) for sample in found)
        return np.mean([(view - video).abs().mean().item() for view, video in pairs])

    assert SOURCES[1] not in clips[0, 0]["sample"]
    assert change(2) < 2 < change(200) < change(1001)


def test_a_view_changes_colours_blur_and_scale_but_not_the_path():
    clips = Shapes(16, 32)
    colours, pixels = [], []
    for index in range(20):
        view = ViewChange(1.0, 0.5, 0.0)(clips.clip(index), np.random.default_rng(index))
        assert view.dtype == torch.uint8 and view.shape == (16, 32, 32, 3)
        verdict = oracle(view)
        if verdict.shape != "none":
            colours.append(np.abs(verdict.colour - clips.content(index).colour).max())
            pixels.append(np.abs(verdict.centre * 32 - clips.motion(index).path.mean(axis=0)).max())
    assert len(colours) > 10 and np.mean(colours) > 0.1 and np.mean(pixels) < 0.5
    video, rng = clips.clip(0), np.random.default_rng
    unchanged = ViewChange(0.0, 0.0, 0.0)(video, rng(0))
    assert torch.equal(unchanged, video) and torch.equal(ViewChange(1.0, 3.0, 0.2)(video, rng(0), 0.0), video)
    wide = ViewChange(0.0, 0.0, 0.5)(video, rng(1))
    assert not torch.equal(wide, video) and torch.equal(wide[:, :1, :1], video[:, :1, :1])  # the plain corner stays


def test_a_view_is_moved_by_up_to_a_share_of_its_side():
    video = torch.zeros(2, 40, 40, 3, dtype=torch.uint8)
    video[:, 18:22, 18:22] = 255
    places = []
    for seed in range(100):
        moved = ViewChange(0.0, 0.0, 0.0, 0.25)(video, np.random.default_rng(seed)).double()[0, :, :, 0]
        weight, axis = moved.sum(), torch.arange(40.0).double() - 19.5
        places.append([(moved.sum(1) @ axis / weight).item(), (moved.sum(0) @ axis / weight).item()])
    assert 9 < np.abs(places).max() <= 10.1 and np.abs(np.mean(places, axis=0)).max() < 1.5
    with pytest.raises(UserError, match=r"augmentation.shift must lie in \[0, 1\), got 1"):
        AugmentationConfig(shift=1.0)


def test_the_weight_of_a_kl_goes_from_its_initial_to_its_full_value():
    rising, falling = KLConfig(2.0, initial=0.5, start=3, warmup_steps=4), KLConfig(None, 0.5, start=1, warmup_steps=2)
    assert [rising.weight_in(step, 9.0) for step in (1, 3, 5, 7, 100)] == [0.5, 0.5, 1.25, 2.0, 2.0]
    assert [falling.weight_in(step, 0.1) for step in (1, 2, 3, 9)] == pytest.approx([0.5, 0.3, 0.1, 0.1])
    assert KLConfig(warmup_steps=4).weight_in(1, 2.0) == 0.5
    with pytest.raises(UserError, match="initial .* must be at least 0, got -1"):
        KLConfig(initial=-1)


def test_a_step_reads_each_latent_from_its_source():
    exchange = ExchangeConfig(share=1.0, view_share=1.0)
    kl = {"structure_kl": KLConfig(weight=0.5), "dynamics_kl": KLConfig(weight=2.0, start=1, warmup_steps=4)}
    config = TrainConfig(max_steps=10, batch_size=2, exchange=exchange, squared_error_steps=1, devices=1, **kl)
    vae = tiny_vae(num_frames=8, sample_size=32)
    torch.nn.init.normal_(vae.decoder.proj_out.weight, std=0.1)
    module = VidTwinModule(vae, config, num_files=2).eval()  # without dropout
    clips = ExchangedClips(Shapes(8, 32), 0, False, Exchange(exchange, 0, 2))
    sample = collate([clips[position, position] for position in range(2)])["sample"]
    video, structure, dynamics = (to_video(sample[name]) for name in ("video", *SOURCES))
    noise = LatentNoise(0, vae.structure_shape, vae.dynamics_shape)([0, 1])
    kept = torch.tensor([1.0, 0.0])
    loss, terms, reconstruction = module._autoencoder_loss([video, structure, dynamics], noise, kept, 0.0)

    from_structure, from_dynamics = vae.encode(structure).latent_dist, vae.encode(dynamics).latent_dist
    posterior = from_structure.exchanged(from_dynamics)
    torch.testing.assert_close(posterior.mean.structure, from_structure.mean.structure)
    torch.testing.assert_close(posterior.logvar.dynamics, from_dynamics.logvar.dynamics)
    structure_noise, dynamics_noise = noise["posterior"]
    latents = posterior.mode()
    drawn = latents.structure + (0.5 * posterior.logvar.structure).exp() * structure_noise
    moved = latents.dynamics + (0.5 * posterior.logvar.dynamics).exp() * dynamics_noise
    moved[1] = 0.0
    expected = vae.decode(type(latents)(drawn, moved)).sample
    torch.testing.assert_close(reconstruction, expected, rtol=1e-4, atol=1e-5)
    whole, _ = VidTwinLoss()(expected, video, posterior, (0.5, 0.0), squared=True)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-4)
    assert module.flops_per_step > VidTwinModule(vae, TrainConfig(max_steps=10, batch_size=2), 2).flops_per_step


def test_a_validation_records_whose_content_and_motion_are_seen(tmp_path):
    flags = arguments(tmp_path / "run", max_steps=1, num_held_out=32, **{"exchange.share": 0.5})
    config, model, folder, text = train_command.parse(flags)
    with folder.held(text, config.resume):
        trainer = fit.train(config, model, folder)
    found = trainer.lightning_module.scalars
    shares = {name: found[f"exchange/{name}"] for name in ("content_of_structure", "axis_of_dynamics")}
    assert shares == {"content_of_structure": 0.0, "axis_of_dynamics": 0.0}, "a model that draws nothing shows nothing"


def test_off_or_not_yet_on_a_run_has_the_same_bits(tmp_path):
    flags = (
        ("--exchange.start=3", "--exchange.view-start=3", "--exchange.view-share=1", "--exchange.share=1"),
        ("--structure-kl.weight=null", "--exchange.blur=2"),
    )
    states = []
    for number, more in enumerate(((), *flags)):
        config, model, folder, text = train_command.parse([*arguments(tmp_path / str(number), max_steps=3), *more])
        with folder.held(text, config.resume):
            fit.train(config, model, folder)
        states.append(model.state_dict())
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in state)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"share": 1.5}, r"exchange.share must lie in \[0, 1\], got 1.5"),
        ({"view_share": -0.1}, r"exchange.view_share must lie in \[0, 1\], got -0.1"),
        ({"colour": 2.0}, r"exchange.colour must lie in \[0, 1\], got 2.0"),
        ({"scale": 1.0}, r"exchange.scale must lie in \[0, 1\), got 1.0"),
        ({"blur": float("nan")}, "exchange.blur must be at least 0, got nan"),
        ({"start": -1}, "exchange.start must be at least 0, got -1"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ExchangeConfig(**settings)
    with pytest.raises(ValueError, match="weight of a latent's KL divergence must be at least 0, got -1"):
        KLConfig(weight=-1)
