"""Whose content and motion an exchange of latents shows, by codecs whose answer is known."""

from functools import cache

import numpy as np
import pytest
import torch
from fake_codecs import DynamicsCodec, PerfectCodec
from test_latent_cache import make_autoencoder

from autoencoder.codec import decode_clips, encode_clips
from autoencoder.data.shapes import Shapes
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics.oracle import Verdict, oracle
from autoencoder.metrics.separation import (
    COLOUR_TOLERANCE,
    agreement,
    both_ways,
    exchange_pairs,
    exchange_scalars,
    nearness,
    truth,
    whose,
)

COUNT = 20
DATA = Shapes(8, 32, "val")


@cache
def clips() -> torch.Tensor:
    return torch.stack([DATA.clip(index) for index in range(COUNT)])


@cache
def truths() -> list[Verdict]:
    return [truth(DATA.content(index), DATA.motion(index), DATA.size) for index in range(COUNT)]


def rows(codec) -> dict[str, dict[str, float | None]]:
    """Of all pairs, exchanged both ways."""
    structure_of, dynamics_of = both_ways(exchange_pairs(truths()))
    latents = encode_clips(codec, clips())
    mixed = VidTwinLatents(latents.structure[structure_of], latents.dynamics[dynamics_of])
    seen = [oracle(clip) for clip in decode_clips(codec, mixed)]
    return whose(seen, [truths()[index] for index in structure_of], [truths()[index] for index in dynamics_of])


def test_the_oracle_tells_path_and_background_of_real_clips():
    for clip, expected in zip(clips(), truths(), strict=True):
        verdict = oracle(clip)
        assert np.abs(verdict.path - expected.path).max() < 0.3
        assert np.abs(verdict.background - expected.background).max() < 0.01
        found = agreement(verdict, expected)
        assert found["content"] and found["axis"] and found["path_correlation"] > 0.999
        assert found["path_distance"] < 0.2


def test_the_oracle_tells_path_and_colours_of_what_is_no_shape():
    clip = np.full((8, 32, 32, 3), 40, dtype=np.uint8)
    for time in range(8):
        clip[time, 14:18, 1 + time : 25 + time] = (230, 40, 40)  # a bar
    verdict = oracle(clip)
    assert (verdict.shape, verdict.motion) == ("none", "none")
    np.testing.assert_allclose(verdict.path, [(13 + time, 16) for time in range(8)])
    np.testing.assert_allclose(verdict.colour, np.array([230, 40, 40]) / 255)
    np.testing.assert_allclose(verdict.background, 40 / 255)
    clip[3] = 40  # a frame without it
    assert np.isnan(oracle(clip).path[3]).all() and np.isfinite(oracle(clip).path[4]).all()


def test_pairs_differ_in_all_that_the_oracle_tells():
    pairs = exchange_pairs(truths())
    assert len(pairs) >= 5 and len({index for pair in pairs for index in pair}) == 2 * len(pairs)
    for first, second in ((truths()[a], truths()[b]) for a, b in pairs):
        assert first.shape != second.shape and first.motion != second.motion
        for name in ("background", "colour"):
            assert np.linalg.norm(getattr(first, name) - getattr(second, name)) > 2 * COLOUR_TOLERANCE
    assert exchange_pairs(truths(), count=2) == pairs[:2]
    assert exchange_pairs(truths(), fit=lambda first, second: False) == []
    assert both_ways([(0, 3), (1, 2)]) == ([0, 1, 3, 2], [3, 2, 0, 1])


def test_a_perfect_codec_shows_the_structures_content_in_the_dynamics_motion():
    codec = PerfectCodec(DATA, count=COUNT)
    found = rows(codec)
    assert found["structure"]["content"] >= 0.9 and found["dynamics"]["axis"] >= 0.9  # some are cut by the frame
    assert found["dynamics"]["path_correlation"] > 0.95 and found["dynamics"]["path_distance"] < 1
    assert found["structure"]["axis"] == found["dynamics"]["content"] == 0
    assert abs(found["structure"]["path_correlation"]) < 0.5 and found["structure"]["path_distance"] > 3
    assert found["neither"]["background"] == 0 and found["neither"]["content"] <= 0.1


def test_a_codec_with_everything_in_dynamics_shows_it():
    found = rows(DynamicsCodec(32))
    assert found["dynamics"]["content"] == found["dynamics"]["axis"] == 1
    assert all(found["structure"][name] == 0 for name in ("shape", "background", "colour", "content", "axis"))
    assert set(found["neither"].values()) == {0.0}


def test_what_is_of_neither_source_is_counted():
    grey = oracle(np.full((8, 32, 32, 3), 128, dtype=np.uint8))
    found = whose([grey, grey], truths()[:2], truths()[2:4])
    assert found["neither"] | {"background": 1.0} == dict.fromkeys(found["neither"], 1.0)
    for latent in ("structure", "dynamics"):
        assert found[latent]["content"] == found[latent]["axis"] == found[latent]["path_correlation"] == 0
        assert found[latent]["path_distance"] is None
    mixed = whose([grey, truths()[1]], truths()[:2], truths()[2:4])
    assert mixed["structure"]["content"] == mixed["structure"]["path_correlation"] == 0.5
    assert mixed["structure"]["path_distance"] == 0, "of the clip with a path"


def test_a_path_is_followed_along_its_own_axis():
    source = next(found for found in truths() if found.motion == "horizontal")
    path = source.path.copy()
    path[:, 0] = 32 - path[:, 0]
    path[:, 1] += 2
    mirrored = Verdict(source.shape, "horizontal", source.colour, source.centre, source.background, path)
    assert agreement(mirrored, source)["path_correlation"] == pytest.approx(-1)
    path[:, 0] = source.path[:, 0]
    assert agreement(mirrored, source)["path_correlation"] == pytest.approx(1)
    assert agreement(mirrored, source)["path_distance"] == pytest.approx(2)
    path[:, 0] = 10
    assert agreement(mirrored, source)["path_correlation"] == 0


def test_nearness_knows_the_right_source_from_the_wrong_one():
    torch.manual_seed(0)
    one, other = torch.rand(2, 4, 3, 8, 16, 16)
    assert nearness(one, one, other) == {"content": pytest.approx(1), "motion": pytest.approx(0)}
    assert nearness(other, one, other) == {"content": pytest.approx(0), "motion": pytest.approx(1)}
    assert nearness((one + other) / 2, one, other)["content"] == pytest.approx(0.5)
    still = one[:, :, :1].expand_as(one)
    assert nearness(still, still, still) == {"content": None, "motion": None}


def test_scalars_of_training_tell_the_codecs_apart():
    perfect = exchange_scalars(PerfectCodec(DATA, count=COUNT), clips(), are_shapes=True)
    assert perfect["exchange/content_of_structure"] >= 0.9 and perfect["exchange/axis_of_dynamics"] >= 0.9
    assert perfect["exchange/path_correlation_of_dynamics"] > 0.95
    assert perfect["exchange/content_nearness"] > 0.7 and perfect["exchange/motion_nearness"] > 0.6
    leaking = exchange_scalars(DynamicsCodec(32), clips(), are_shapes=True)
    assert perfect.keys() == leaking.keys()
    assert leaking["exchange/content_of_structure"] == 0 and leaking["exchange/content_of_dynamics"] == 1
    assert leaking["exchange/content_nearness"] < 0.01 and leaking["exchange/motion_nearness"] > 0.99


def test_scalars_of_other_data_need_no_oracle(monkeypatch):
    monkeypatch.setattr("autoencoder.metrics.separation.oracle", None)
    codec = PerfectCodec(DATA, count=COUNT)
    found = exchange_scalars(codec, clips()[:4], are_shapes=False)
    assert found.keys() == {"exchange/content_nearness", "exchange/motion_nearness"}
    assert found["exchange/content_nearness"] > 0.6
    assert exchange_scalars(codec, clips()[:1], are_shapes=False) == {}


def test_scalars_of_a_real_model():
    model = make_autoencoder().eval()
    torch.nn.init.normal_(model.decoder.proj_out.weight, std=0.1)
    found = exchange_scalars(model, clips()[:6], are_shapes=True)
    assert len(found) == 14 and all(-1 <= value <= 1 for value in found.values())
