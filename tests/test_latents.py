"""The pair of latents and the distribution over it."""

import pytest
import torch
from safetensors.torch import save_file
from torch.distributions import Normal, kl_divergence

from autoencoder import VidTwinLatents, VidTwinPosterior
from autoencoder.common.seeding import generators


def latents(batch: int = 3, seed: int = 0) -> VidTwinLatents:
    generator = torch.Generator().manual_seed(seed)
    return VidTwinLatents(
        torch.randn(batch, 2, 3, 4, 4, generator=generator), torch.randn(batch, 5, 6, 8, generator=generator)
    )


def moments(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, 3, 4, 4, generator=generator), torch.randn(batch, 10, 6, 8, generator=generator)


def same(one: VidTwinLatents, other: VidTwinLatents) -> bool:
    return torch.equal(one.structure, other.structure) and torch.equal(one.dynamics, other.dynamics)


def test_index_selects_clips():
    whole = latents()
    assert len(whole) == 3
    for index in (0, 2, -1, -3):
        part = whole[index]
        assert len(part) == 1
        assert torch.equal(part.structure[0], whole.structure[index])
        assert torch.equal(part.dynamics[0], whole.dynamics[index])
    assert same(whole[1:], VidTwinLatents(whole.structure[1:], whole.dynamics[1:]))
    assert same(whole[torch.tensor([True, False, True])], VidTwinLatents.cat([whole[0], whole[2]]))
    assert same(VidTwinLatents.cat([whole[i] for i in range(3)]), whole)
    assert [len(part) for part in whole] == [1, 1, 1], "it can be iterated, so the index has to end"
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"clip {index} of a batch of 3"):
            whole[index]


def test_to_changes_both():
    half = latents().to(torch.float16)
    assert half.structure.dtype == half.dynamics.dtype == torch.float16
    assert half.to("meta").dynamics.device.type == half.to(device="meta").structure.device.type == "meta"


def test_saves_and_loads(tmp_path):
    whole = latents().map(lambda tensor: tensor.transpose(-1, -2))  # not contiguous
    whole.to(torch.bfloat16).save(tmp_path / "new" / "latents.safetensors")
    whole.save(tmp_path / "new" / "latents.safetensors")
    assert same(VidTwinLatents.load(tmp_path / "new" / "latents.safetensors"), whole)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["latents.safetensors"]
    save_file({"structure": torch.zeros(1)}, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match=r"half.safetensors holds \['structure'\]"):
        VidTwinLatents.load(tmp_path / "half.safetensors")


@pytest.mark.parametrize("structure, dynamics", [((2, 1, 1, 1), (2, 1, 1, 1)), ((2, 1, 1, 1, 1), (3, 1, 1, 1))])
def test_refuses_other_ranks_and_batches(structure, dynamics):
    with pytest.raises(ValueError, match=r"\(B, d_S, n_q, h_S, w_S\).*got \(2, 1"):
        VidTwinLatents(torch.zeros(structure), torch.zeros(dynamics))


def test_mode_and_sample_are_those_of_the_gaussian():
    structure, dynamics = (tensor[:1] for tensor in moments())
    posterior = VidTwinPosterior(structure.expand(2000, -1, -1, -1, -1), dynamics.expand(2000, -1, -1, -1))
    drawn = posterior.sample(torch.Generator().manual_seed(0))
    for draws, given, mode in (
        (drawn.structure, structure, posterior.mode().structure),
        (drawn.dynamics, dynamics, posterior.mode().dynamics),
    ):
        mean, logvar = given.chunk(2, dim=1)
        assert torch.equal(mode[:1], mean)
        std = torch.exp(0.5 * logvar)
        assert ((draws.mean(0, keepdim=True) - mean).abs() / std).max() < 0.15
        assert (draws.std(0, keepdim=True) / std - 1).abs().max() < 0.1


def test_noise_of_a_clip_does_not_depend_on_its_batch():
    whole = VidTwinPosterior(*moments())
    alone = VidTwinPosterior(*(tensor[1:2] for tensor in moments()))
    drawn = whole.sample(generators(0, "posterior", [7, 8, 9]))
    assert same(drawn[1], alone.sample(generators(0, "posterior", [8])))
    assert not same(drawn[1], alone.sample(generators(0, "posterior", [9])))
    assert not same(drawn[1], alone.sample(generators(1, "posterior", [8])))


def test_logvar_is_clamped():
    structure, dynamics = moments()
    structure[:, 2:], dynamics[:, 5:] = 100.0, -100.0
    posterior = VidTwinPosterior(structure, dynamics)
    assert (posterior.logvar.structure == 20).all() and (posterior.logvar.dynamics == -30).all()
    assert same(posterior.mode(), VidTwinLatents(structure[:, :2], dynamics[:, :5])), "means are not"


def test_kl_is_that_of_torch():
    expected = 0
    for tensor in moments():
        mean, logvar = tensor.double().chunk(2, dim=1)
        expected = expected + kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).flatten(1).sum(1)
    kl = VidTwinPosterior(*moments()).kl()
    assert kl.shape == (3,)
    torch.testing.assert_close(kl.double(), expected, rtol=1e-5, atol=0)
    assert (VidTwinPosterior(torch.zeros(1, 4, 3, 4, 4), torch.zeros(1, 10, 6, 8)).kl() == 0).all()
