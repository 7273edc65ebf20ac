"""The two-factor score of the MSD benchmark, Multi-factor Sequential Disentanglement (arXiv 2510.17313).

As its published code defines it (azencot-group/MSD-Benchmark: `InterventionEvaluator`, `TwoFactorSwap`,
`TwoFactorSample`): every clip keeps one latent and takes the other one of another clip, chosen by a random permutation
of all clips, or a sampled one. A judge names the factors of what is decoded, and its accuracies are taken against the
clip's own labels. A factor of the kept latent should be named always, a factor of the other one as often as by chance,
1 / its number of classes. The score is 1 minus the mean of two numbers: the mean deviation of the accuracies that
should be 1, and that of those that should be chance.

A decoder of which the judge recognises nothing does not score 0, but about a third.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from autoencoder.latents import VidTwinLatents

Kind = Literal["static", "dynamic"]
Judge = Callable[[VidTwinLatents], Mapping[str, Sequence]]


@dataclass(frozen=True)
class Factor:
    """A labelled factor of a data set.

    Attributes:
        kind: "static" if the structure should hold it, "dynamic" if the dynamics should.
        num_classes: of its labels.
    """

    kind: Kind
    num_classes: int


@dataclass(frozen=True)
class TwoFactorScore:
    """The score and what it comes from.

    Attributes:
        score: at most 1.
        accuracies: of every factor if the "static" or the "dynamic" latent is kept, in [0, 1].
    """

    score: float
    accuracies: dict[Kind, dict[str, float]]


def permuted(latents: VidTwinLatents, seed: int) -> VidTwinLatents:
    """The latents of all clips in a random order, some of which may stay where they are, as in the benchmark."""
    return latents[torch.randperm(len(latents), generator=torch.Generator().manual_seed(seed))]


def two_factor(
    latents: VidTwinLatents,
    others: VidTwinLatents,
    judge: Judge,
    labels: Mapping[str, Sequence],
    factors: Mapping[str, Factor],
) -> TwoFactorScore:
    """Measure the score.

    Args:
        latents: of B real clips.
        others: what replaces the latent that is not kept, of B clips: `permuted`, or sampled.
        judge: decodes latents and names every factor of every clip.
        labels: of the B clips, by factor.
        factors: the data set's, by name.
    """
    mixed = {
        "static": VidTwinLatents(latents.structure, others.dynamics),
        "dynamic": VidTwinLatents(others.structure, latents.dynamics),
    }
    accuracies = {}
    for kept, batch in mixed.items():
        named = judge(batch)
        accuracies[kept] = {
            name: float(np.mean([a == b for a, b in zip(named[name], labels[name], strict=True)])) for name in factors
        }
    return TwoFactorScore(two_factor_score(accuracies, factors), accuracies)


def two_factor_score(accuracies: Mapping[Kind, Mapping[str, float]], factors: Mapping[str, Factor]) -> float:
    """The score of accuracies, by the kind of the latent that is kept and by factor."""
    kept, other = [], []
    for kind, row in accuracies.items():
        for name, factor in factors.items():
            if factor.kind == kind:
                kept.append(abs(row[name] - 1))
            else:
                other.append(abs(row[name] - 1 / factor.num_classes))
    return float(1 - (np.mean(kept) + np.mean(other)) / 2)
