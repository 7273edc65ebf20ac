"""Scores of the Sprites benchmark, from what the judge reads in clips.

Bai et al., "Contrastively Disentangled Sequential Variational Autoencoder" (2021), section 5; all logarithms natural.
"""

from dataclasses import dataclass

import torch

from autoencoder.data.sprite_sources import ATTRIBUTES
from autoencoder.metrics.sprites_judge import Readings


def conditional_entropy(probabilities: torch.Tensor) -> float:
    """H(y|x), the mean entropy of the judge's answers: 0 where it is always sure.

    Args:
        probabilities: (B, K), each row summing to 1.
    """
    return torch.special.entr(probabilities.double()).sum(dim=1).mean().item()


def marginal_entropy(probabilities: torch.Tensor) -> float:
    """H(y), the entropy of the judge's mean answer: ln K where all classes are as frequent.

    Args:
        probabilities: (B, K), each row summing to 1.
    """
    return torch.special.entr(probabilities.double().mean(dim=0)).sum().item()


def inception_score(probabilities: torch.Tensor) -> float:
    """exp of the mean KL divergence of p(y|x) from p(y): 1 at worst, K at best.

    Args:
        probabilities: (B, K), each row summing to 1.
    """
    probabilities = probabilities.double()
    marginal = probabilities.mean(dim=0)
    # p log (p / q), which is 0 for p = 0; q is 0 only where all p are.
    divergence = torch.special.xlogy(probabilities, probabilities) - torch.special.xlogy(probabilities, marginal)
    return divergence.sum(dim=1).mean().exp().item()


@dataclass(frozen=True)
class SpritesScores:
    """The scores of a set of clips.

    Attributes:
        num_clips: how many were judged.
        action: share of the clips that show the action asked for, in [0, 1]; None where none was.
        inception_score: of the actions seen, at most their number (9).
        conditional_entropy: H(y|x) of the actions seen.
        marginal_entropy: H(y) of the actions seen, at most the log of their number (ln 9 = 2.197).
        attributes: shares of the clips that show the value asked for, in [0, 1], by attribute; None where none was.
    """

    num_clips: int
    action: float | None
    inception_score: float
    conditional_entropy: float
    marginal_entropy: float
    attributes: dict[str, float] | None


def score(
    readings: Readings, actions: torch.Tensor | None = None, attributes: torch.Tensor | None = None
) -> SpritesScores:
    """Compare what the judge reads with what was asked for.

    Args:
        readings: probabilities of B clips.
        actions: int (B,), the action asked for; None where it was left open.
        attributes: int (B, 4), the attributes asked for, in the order of `ATTRIBUTES`; None where left open.
    """
    action = kept = None
    if actions is not None:
        action = (readings.action.argmax(dim=1) == actions).double().mean().item()
    if attributes is not None:
        shares = (readings.attributes.argmax(dim=2) == attributes).double().mean(dim=0).tolist()
        kept = dict(zip(ATTRIBUTES, shares, strict=True))
    return SpritesScores(
        len(readings.action),
        action,
        inception_score(readings.action),
        conditional_entropy(readings.action),
        marginal_entropy(readings.action),
        kept,
    )
