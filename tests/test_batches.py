"""The batches of stage two: what they were before workers made them, and the same whoever makes them."""

import pickle
from itertools import islice
from pathlib import Path

import pytest
import torch

from autoencoder.data.stream import PositionSampler
from generator import VidTwinDiT
from generator.batches import NoisySamples, on_device, split
from generator.latent_cache import LatentCache, write_index, write_shard
from generator.objective import NoisyBatch, ObjectiveConfig

STRUCTURE, DYNAMICS, NUM_CLASSES = (2, 3, 4, 4), (3, 8, 8), 5
IDENTITY = {"autoencoder": "noise"}
FIELDS = ("tokens", "timestep", "labels", "target", "weight")
CPU = torch.device("cpu")
# Means that the code of 2026-11-24 left, which noised whole batches in the training process: of the noisy tokens, the
# times, the targets and the weights, each squared, and the dropped labels.
FORMER = {
    ("flow",): (0.36593636, 290064.85, 1.2511781, 1.0, [0, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 18, 22, 23]),
    ("sample",): (0.84158604, 340493.88, 0.25266083, 1.0, [2, 3, 4, 5, 9, 11, 12, 13, 14, 17, 19, 20, 21, 22]),
    ("epsilon",): (0.84158604, 340493.88, 1.0001287, 1.0, [2, 3, 4, 5, 9, 11, 12, 13, 14, 17, 19, 20, 21, 22]),
    ("v_prediction",): (0.84158604, 340493.88, 0.41120346, 1.0, [2, 3, 4, 5, 9, 11, 12, 13, 14, 17, 19, 20, 21, 22]),
    ("flow", "independent_times"): (
        0.36718343,
        286086.22,
        1.236774,
        0.91666667,
        [0, 1, 3, 7, 9, 12, 13, 14, 16, 19, 20, 23],
    ),
    ("sample", "independent_times"): (
        0.84635566,
        339216.88,
        0.25266083,
        0.85416667,
        [0, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 18, 22, 23],
    ),
    ("epsilon", "independent_times"): (
        0.84635566,
        339216.88,
        0.99514631,
        0.85416667,
        [0, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 18, 22, 23],
    ),
    ("v_prediction", "independent_times"): (
        0.84635566,
        339216.88,
        0.40147968,
        0.85416667,
        [0, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 18, 22, 23],
    ),
    ("epsilon", "min_snr_gamma"): (
        0.84158604,
        340493.88,
        1.0001287,
        0.91702952,
        [2, 3, 4, 5, 9, 11, 12, 13, 14, 17, 19, 20, 21, 22],
    ),
    ("v_prediction", "min_snr_gamma", "independent_times"): (
        0.84635566,
        339216.88,
        0.40147968,
        0.036400704,
        [0, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 18, 22, 23],
    ),
}


def make_cache(folder: Path, clips: int = 30, seed: int = 0, shards: int = 2) -> LatentCache:
    """Noise for latents."""
    generator = torch.Generator().manual_seed(seed)
    for number in range(shards):
        tensors = {
            "structure": torch.randn(clips // shards, *STRUCTURE, generator=generator),
            "dynamics": 2 * torch.randn(clips // shards, *DYNAMICS, generator=generator) + 1,
            "labels": torch.randint(NUM_CLASSES, (clips // shards,), generator=generator),
            "sources": torch.zeros(clips // shards, 3, dtype=torch.long),
        }
        write_shard(folder, number, tensors, IDENTITY)
    write_index(folder, shards, IDENTITY, list("abcde"), {})
    return LatentCache(folder)


def make_model(cache: LatentCache, objective: ObjectiveConfig, **options) -> VidTwinDiT:
    settings = {"hidden_size": 16, "num_layers": 2, "num_attention_heads": 2, "norm": "rms_norm"}
    return VidTwinDiT(
        structure_shape=STRUCTURE,
        dynamics_shape=DYNAMICS,
        dynamics_axes=(4, 4),
        structure_patch_size=(2, 2, 2),  # with padding
        num_classes=NUM_CLASSES,
        prediction_type=objective.kind,
        independent_times=objective.independent_times,
        **settings | cache.statistics | options,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> LatentCache:
    return make_cache(tmp_path_factory.mktemp("cache"))


def samples(cache: LatentCache, kind: str = "flow", **options) -> NoisySamples:
    objective = ObjectiveConfig(kind, label_dropout=0.5, **options)
    return NoisySamples(cache, objective, make_model(cache, objective), 7, "objective")


def taken(source: NoisySamples, steps: range, rank=0, world_size=1, sizes=(8,), num_workers=0) -> list[NoisyBatch]:
    """The micro-batches of one process in some steps of eight samples."""
    sampler = PositionSampler(len(source.cache), 8, 7, steps.start, rank, world_size)
    return list(on_device(source, split(islice(sampler, len(steps)), sizes), CPU, num_workers))


def joined(batches: list[NoisyBatch]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([getattr(batch, name) for batch in batches]) for name in FIELDS}


def assert_same(batches: list[NoisyBatch], expected: dict[str, torch.Tensor]) -> None:
    for name, values in joined(batches).items():
        assert torch.equal(values, expected[name]), name


VARIANTS = [(kind, {}) for kind in ("flow", "sample", "epsilon", "v_prediction")]
VARIANTS += [(kind, {"independent_times": True}) for kind in ("flow", "sample", "epsilon", "v_prediction")]
VARIANTS += [("epsilon", {"min_snr_gamma": 5.0}), ("v_prediction", {"min_snr_gamma": 5.0, "independent_times": True})]

OTHERS = [("flow_sample", {"independent_times": True}), ("flow", {"contrastive_weight": 0.05})]
OTHERS += [("flow", {"independent_times": True, "history_share": 0.5, "frame_share": 0.3})]


@pytest.mark.parametrize("kind, options", VARIANTS, ids=str)
def test_batches_stay_what_they_were(cache, kind, options):
    batch = joined(taken(samples(cache, kind, **options), range(2, 5)))
    *means, dropped = FORMER[(kind, *options)]
    for name, mean in zip(("tokens", "timestep", "target", "weight"), means, strict=True):
        assert batch[name].double().square().mean().item() == pytest.approx(mean, rel=1e-5), name
    assert (batch["labels"] == NUM_CLASSES).nonzero().flatten().tolist() == dropped


@pytest.mark.parametrize("kind, options", [*VARIANTS[::3], *OTHERS], ids=str)
def test_batches_are_the_same_whoever_makes_them(cache, kind, options):
    """Processes, micro-batches, and a run that begins in the middle; an epoch of the 30 clips ends within."""
    source = samples(cache, kind, **options)
    whole = taken(source, range(6))
    expected = joined(whole)
    assert_same(taken(source, range(6), sizes=(3, 3, 2)), expected)
    assert_same([*taken(source, range(4)), *taken(source, range(4, 6), sizes=(4, 4))], expected)
    ranks = [taken(source, range(6), rank, 2, sizes=(2, 2)) for rank in range(2)]
    assert_same([batch for step in range(6) for rank in ranks for batch in rank[2 * step : 2 * step + 2]], expected)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_of_workers_are_those_of_the_process_itself(cache, num_workers):
    """They come in order, and the global generator, from which a model takes its weights, is left alone."""
    source = samples(cache, independent_times=True)
    expected = joined(taken(source, range(1, 4)))
    state = torch.get_rng_state()
    assert_same(taken(source, range(1, 4), sizes=(4, 4), num_workers=num_workers), expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_can_be_made_where_nothing_is_inherited(cache):
    """Workers are started afresh on some systems: then what they need is sent to them, and that is no weights."""
    source = samples(cache)
    sent = pickle.dumps(source)
    assert_same([pickle.loads(sent)[[(3, 1)]]], joined([source[[(3, 1)]]]))
    assert not any(isinstance(value, torch.nn.Module) for value in vars(source).values())


def test_a_clip_is_contrasted_with_any_clip_but_itself(cache):
    """A weight of one half moves the target, which is x_0 here, by x_0 - other."""
    source = samples(cache, "sample", contrastive_weight=0.5)
    clips = source._tokens(range(30))
    seen = set()
    for position in range(300):
        target = source[[(position, 3)]].target[0]
        (other,) = (index for index in range(30) if torch.allclose(2 * clips[3] - target, clips[index], atol=1e-5))
        seen.add(other)
    assert seen == set(range(30)) - {3}


def test_one_clip_cannot_be_contrasted(tmp_path):
    with pytest.raises(ValueError, match="contrastive_weight=0.05 needs a second clip to contrast with, and .* one"):
        samples(make_cache(tmp_path, clips=1, shards=1), contrastive_weight=0.05)


def test_the_stream_and_the_seed_decide_on_the_draws(cache):
    objective = ObjectiveConfig()
    model = make_model(cache, objective)
    first, *others = (
        NoisySamples(cache, objective, model, seed, stream)[[(0, 0)]].tokens
        for seed, stream in ((0, "objective"), (1, "objective"), (0, "validation"))
    )
    assert not any(torch.equal(first, other) for other in others)
