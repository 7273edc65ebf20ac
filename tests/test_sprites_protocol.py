"""The Sprites benchmark on autoencoders whose answer is known, and its table."""

import pytest
import torch
from made_up_sprites import MadeUpSprites
from tiny_models import tiny_vae

from autoencoder.common.errors import UserError
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics import sprites_protocol
from autoencoder.metrics.sprites_judge import Readings
from autoencoder.metrics.sprites_protocol import SpritesProtocol, choose_clips

SPRITES = MadeUpSprites(4)
EXCHANGED = "exchanged: action of D, content of S"
CROSSED = "exchanged: action of S, content of D"


class Reader:
    """A judge that cannot err: it reads in a clip what the clip was rendered from."""

    def read(self, clips: torch.Tensor) -> Readings:
        action, attributes = torch.zeros(len(clips), 9).double(), torch.zeros(len(clips), 4, 6).double()
        for row, clip in enumerate(clips):
            index = next(index for index in range(len(SPRITES)) if torch.equal(SPRITES.clip(index, None), clip))
            action[row, SPRITES.label(index)] = 1
            attributes[row, range(4), SPRITES.attributes(index)] = 1
        return Readings(action, attributes)


def encoded(vae, clips: torch.Tensor) -> VidTwinLatents:
    """Latents that hold the index of their clip in every number."""
    indices = [next(i for i in range(len(SPRITES)) if torch.equal(SPRITES.clip(i, None), clip)) for clip in clips]
    numbers = torch.tensor(indices, dtype=torch.float32)
    return VidTwinLatents(numbers.view(-1, 1, 1, 1, 1), numbers.view(-1, 1, 1, 1))


def decoder(content: str, motion: str):
    """Decodes to the character of the latent named `content` in the action of the one named `motion`."""

    def decode(vae, latents: VidTwinLatents) -> torch.Tensor:
        numbers = {name: getattr(latents, name).flatten().long().tolist() for name in ("structure", "dynamics")}
        pairs = zip(numbers[content], numbers[motion], strict=True)
        return torch.stack([SPRITES.clip(who // 9 * 9 + how % 9, None) for who, how in pairs])

    return decode


@pytest.fixture
def protocol(monkeypatch):
    def build(content: str, motion: str) -> SpritesProtocol:
        monkeypatch.setattr(sprites_protocol, "encode_clips", encoded)
        monkeypatch.setattr(sprites_protocol, "decode_clips", decoder(content, motion))
        monkeypatch.setattr(SpritesProtocol, "sample_prior", lambda self: self.latents[torch.arange(36).flip(0)])
        return SpritesProtocol(None, Reader(), SPRITES)

    return build


def test_latents_that_separate_score_all(protocol):
    rows = protocol("structure", "dynamics").rows()
    for name in ("real clips", "reconstructions", EXCHANGED):
        assert rows[name].action == 1.0 and set(rows[name].attributes.values()) == {1.0}, name
        assert rows[name].inception_score == pytest.approx(9.0)
    assert rows[CROSSED].action == 0.0 and max(rows[CROSSED].attributes.values()) < 1
    assert rows["D kept, S of N(0, 1)"].action == 1.0 and rows["D kept, S of N(0, 1)"].attributes is None
    assert (
        set(rows["S kept, D of N(0, 1)"].attributes.values()) == {1.0} and rows["S kept, D of N(0, 1)"].action is None
    )


@pytest.mark.parametrize("latent, action", [("dynamics", 1.0), ("structure", 0.0)])
def test_a_latent_that_draws_alone_is_found_out(protocol, latent, action):
    rows = protocol(latent, latent).rows()
    assert rows["reconstructions"].action == 1.0, "of which reconstructions tell nothing"
    assert (rows[EXCHANGED].action, rows[CROSSED].action) == (action, 1.0 - action)
    other = CROSSED if latent == "dynamics" else EXCHANGED
    assert set(rows[other].attributes.values()) == {1.0}


def test_samples_of_a_pipeline_have_rows_of_their_own(protocol):
    built = protocol("structure", "dynamics")
    rows = built.rows(samples=built.latents[torch.zeros(36, dtype=torch.long)])
    assert rows["D kept, S of the pipeline"].action == 1.0
    assert set(rows["S kept, D of the pipeline"].attributes.values()) == {1.0}


def test_partners_show_another_character_in_another_action_and_depend_on_the_seed():
    clips, again, other = (choose_clips(SPRITES, seed=seed) for seed in (3, 3, 4))
    assert len(clips) == 36 and torch.equal(clips.partners, again.partners)
    assert not torch.equal(clips.partners, other.partners)
    assert (clips.actions != clips.actions[clips.partners]).all()
    assert (clips.attributes != clips.attributes[clips.partners]).any(dim=1).all()
    assert len(choose_clips(SPRITES, 18)) == 18


@pytest.mark.parametrize(
    "count, message",
    [
        (0, "count must lie in 1 to 36, the number of held-out clips, got 0"),
        (37, "got 37"),
        (9, "none of the 9 clips shows another character than clip 0 in another action: judge more"),
    ],
)
def test_counts_that_cannot_be_judged_are_refused(count, message):
    with pytest.raises(UserError, match=message):
        choose_clips(SPRITES, count)


def test_a_real_autoencoder_goes_through_and_samples_of_the_prior_stay_with_their_clip():
    class Any:
        def read(self, clips):
            assert clips.shape[1:] == (8, 32, 32, 3) and clips.dtype == torch.uint8
            return Readings(torch.full((len(clips), 9), 1 / 9), torch.full((len(clips), 4, 6), 1 / 6))

    vae = tiny_vae(num_frames=8, sample_size=32).eval()
    few, many = (SpritesProtocol(vae, Any(), SPRITES, count) for count in (18, 36))
    prior, longer = few.sample_prior(), many.sample_prior()
    assert prior.structure.shape == (18, *vae.structure_shape) and prior.dynamics.shape == (18, *vae.dynamics_shape)
    assert torch.equal(prior.structure, longer.structure[:18]) and torch.equal(prior.dynamics, longer.dynamics[:18])
    assert abs(longer.structure.mean()) < 0.1 and abs(longer.structure.std() - 1) < 0.1
    assert all(row.inception_score == pytest.approx(1.0) for row in few.rows().values())
