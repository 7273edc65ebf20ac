"""What a small classifier reads from a latent, and the two-factor score of the MSD benchmark."""

import pytest
import torch
from fake_codecs import NAMES, DynamicsCodec, PerfectCodec

from autoencoder.codec import decode_clips, encode_clips
from autoencoder.data.shapes import MOTIONS, Shapes
from autoencoder.metrics.msd import Factor, permuted, two_factor, two_factor_score
from autoencoder.metrics.oracle import oracle
from autoencoder.metrics.probes import probe

FACTORS = {"shape": Factor("static", len(NAMES)), "motion": Factor("dynamic", len(MOTIONS))}


def make_clips(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (N, 2, 6) that hold a label in one place, non-linearly, noise elsewhere, and one large constant."""
    draw = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, 2, 6, generator=draw)
    latents[:, 1, 5] = 1e4
    labels = (latents[:, 0, 0] > 0).long() + 2 * (latents[:, 0, 1] * latents[:, 0, 2] > 0).long()
    return latents, labels


def test_a_probe_reads_what_is_there_and_nothing_else():
    latents, labels = make_clips(1500, 0)
    held_out, held_out_labels = make_clips(500, 1)
    found = probe(latents, labels, held_out, held_out_labels)
    assert found.accuracy > 0.85 and found.chance == pytest.approx(0.25, abs=0.05)
    blind = probe(latents[:, 1:], labels, held_out[:, 1:], held_out_labels)
    assert blind.accuracy == pytest.approx(0.25, abs=0.08) and blind.chance == found.chance


def test_a_probe_is_a_function_of_its_seed():
    latents, labels = make_clips(200, 0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    accuracies = [probe(latents, labels, latents, labels, seed=seed).accuracy for seed in (0, 0, 1)]
    assert accuracies[0] == accuracies[1] != accuracies[2]
    assert torch.equal(torch.get_rng_state(), before), "the caller's generator is left alone"


def test_chance_is_the_most_frequent_label():
    labels = torch.tensor([0, 1, 1, 1, 2] * 2)
    found = probe(torch.zeros(10, 3), labels, torch.zeros(10, 3), labels)
    assert found.chance == found.accuracy == 0.6, "nothing can be read, and most clips have label 1"


def test_the_score_by_hand():
    perfect = {"static": {"shape": 1, "motion": 0.5}, "dynamic": {"shape": 0.2, "motion": 1}}
    assert two_factor_score(perfect, FACTORS) == pytest.approx(1)
    all_in_dynamics = {"static": {"shape": 0.2, "motion": 0.5}, "dynamic": {"shape": 1, "motion": 1}}
    assert two_factor_score(all_in_dynamics, FACTORS) == pytest.approx(1 - (0.8 / 2 + 0.8 / 2) / 2)
    nothing = {"static": {"shape": 0, "motion": 0}, "dynamic": {"shape": 0, "motion": 0}}
    assert two_factor_score(nothing, FACTORS) == pytest.approx(1 - (1 + (0.5 + 0.2) / 2) / 2)
    # Two static factors and one dynamic one: deviations are averaged over all entries of one sort, not by latent.
    factors = {"a": Factor("static", 4), "b": Factor("static", 2), "c": Factor("dynamic", 5)}
    rows = {"static": {"a": 0.9, "b": 0.6, "c": 0.4}, "dynamic": {"a": 0.25, "b": 0.9, "c": 1.0}}
    assert two_factor_score(rows, factors) == pytest.approx(1 - ((0.1 + 0.4 + 0) / 3 + (0.2 + 0 + 0.4) / 3) / 2)


def test_the_score_of_codecs_whose_answer_is_known():
    count = 60
    data = Shapes(8, 32, "val")
    clips = torch.stack([data.clip(index) for index in range(count)])
    pairs = [data.class_names[data.label(index)].split("_") for index in range(count)]
    labels = {"shape": [shape for shape, _ in pairs], "motion": [motion for _, motion in pairs]}

    def score(codec):
        def judge(latents):
            verdicts = [oracle(clip) for clip in decode_clips(codec, latents)]
            return {name: [getattr(verdict, name) for verdict in verdicts] for name in FACTORS}

        latents = encode_clips(codec, clips)
        return two_factor(latents, permuted(latents, seed=0), judge, labels, FACTORS)

    perfect = score(PerfectCodec(data, count=count))
    assert perfect.accuracies["static"]["shape"] > 0.95 and perfect.accuracies["dynamic"]["motion"] > 0.95
    assert perfect.accuracies["static"]["motion"] < 0.7 and perfect.accuracies["dynamic"]["shape"] < 0.4
    assert perfect.score > 0.9
    leaking = score(DynamicsCodec(32))
    assert leaking.accuracies["dynamic"] == {"shape": 1.0, "motion": 1.0}
    assert leaking.accuracies["static"]["shape"] < 0.4 and 0.5 < leaking.score < 0.7
