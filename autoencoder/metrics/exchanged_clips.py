"""Which held-out clips exchange their latents, what a perfect exchange shows, and what a real one does."""

from dataclasses import dataclass

import numpy as np
import torch

from autoencoder.common.errors import UserError
from autoencoder.common.seeding import derive_seed
from autoencoder.data.shapes import Content, Motion, Shapes, render
from autoencoder.metrics.oracle import Verdict, oracle
from autoencoder.metrics.separation import agreement, both_ways, exchange_pairs, mean_agreement, truth, whose


@dataclass(frozen=True)
class Exchange:
    """N held-out clips, exchanged in pairs.

    Attributes:
        clips: uint8 (N, T, H, W, 3), of which clip i gives the structure of exchanged clip i.
        dynamics_of: the index of the clip that gives its dynamics.
        rendered: uint8 (N, T, H, W, 3), the content of clip i in the motion of that clip.
        truths: what the clips show; None where there is no oracle.
    """

    clips: torch.Tensor
    dynamics_of: list[int]
    rendered: torch.Tensor
    truths: list[Verdict] | None


def exchanged_shapes(data: Shapes, count: int, seed: int) -> Exchange:
    """Pairs that differ in all that the oracle tells, and stay within the frame in each other's motion.

    Args:
        data: moving shapes.
        count: pairs, each exchanged both ways.
        seed: which clips are chosen and paired.

    Raises:
        UserError: if there are fewer such pairs than wanted.
    """
    order = random_order(seed, len(data))
    drawn = [(data.content(index), data.motion(index)) for index in order]
    truths = [truth(content, motion, data.size) for content, motion in drawn]

    def fit(first: int, second: int) -> bool:
        (content, motion), (other_content, other_motion) = drawn[first], drawn[second]
        return _within(content, other_motion, data.size) and _within(other_content, motion, data.size)

    pairs = exchange_pairs(truths, count, fit)
    check_enough(len(pairs), count)
    clips, partners = both_ways(pairs)
    return Exchange(
        clips=torch.stack([data.clip(order[place]) for place in clips]),
        dynamics_of=[clips.index(place) for place in partners],
        rendered=torch.stack(
            [render(drawn[a][0], drawn[b][1], data.size) for a, b in zip(clips, partners, strict=True)]
        ),
        truths=[truths[place] for place in clips],
    )


def exchange_shares(
    exchange: Exchange, exchanged: torch.Tensor, own: torch.Tensor
) -> dict[str, dict[str, float | None]]:
    """What exchanged clips, reconstructions and true renderings of an exchange of moving shapes show.

    Args:
        exchange: the clips that give the latents.
        exchanged, own: decoded with the latents exchanged and with the clips' own, uint8 (N, T, H, W, 3).

    Returns:
        Rows "structure", "dynamics" and "neither" as of `whose`; "reconstructions" and "renderings", as of
        `mean_agreement`, in common with what they should show.
    """
    structure = exchange.truths
    dynamics = [structure[index] for index in exchange.dynamics_of]
    expected = [_mixed(content, motion) for content, motion in zip(structure, dynamics, strict=True)]
    rows = whose([oracle(clip) for clip in exchanged], structure, dynamics)
    for name, clips, sources in (("reconstructions", own, structure), ("renderings", exchange.rendered, expected)):
        found = [agreement(oracle(clip), source) for clip, source in zip(clips, sources, strict=True)]
        rows[name] = mean_agreement(found)
    return rows


def random_order(seed: int, count: int) -> list[int]:
    """The indices 0 to count - 1 in an order that the seed tells."""
    return np.random.default_rng(derive_seed(seed, "separation")).permutation(count).tolist()


def check_enough(found: int, wanted: int) -> None:
    """Check that there are as many pairs as wanted.

    Raises:
        UserError: if there are fewer.
    """
    if found < wanted:
        raise UserError(f"{wanted} pairs of held-out clips are asked for, only {found} differ in all")


def _mixed(content: Verdict, motion: Verdict) -> Verdict:
    return Verdict(content.shape, motion.motion, content.colour, motion.centre, content.background, motion.path)


def _within(content: Content, motion: Motion, size: int) -> bool:
    """Whether no part of the content leaves the frame."""
    left, right, up, down = content.extent
    low, high = motion.path.min(axis=0), motion.path.max(axis=0)
    return low[0] >= left and high[0] <= size - right and low[1] >= up and high[1] <= size - down
