"""Whose content and whose motion a clip shows whose structure and dynamics come from two others.

On moving shapes the oracle tells it. On other data `nearness` compares pixels alone.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d, normalize

from autoencoder.codec import decode_float_clips, encode_clips
from autoencoder.common.pictures import to_uint8
from autoencoder.data.shapes import Content, Motion
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics.oracle import Verdict, oracle
from autoencoder.vidtwin import AutoencoderVidTwin

# Distance of RGB in [0, 1] up to which a colour is taken for a clip's; a ball of this radius is 3 % of all colours.
COLOUR_TOLERANCE = 0.2
NEARNESS_GRID = 4
CONTENT = ("shape", "background", "colour")


def truth(content: Content, motion: Motion, size: int) -> Verdict:
    """The verdict of a flawless oracle on the rendering of a content in a motion.

    Args:
        content, motion: of moving shapes.
        size: height and width of the frame, in pixels.
    """
    centre = motion.path.mean(axis=0) / size
    return Verdict(content.shape, motion.axis, content.colour, centre, content.background, motion.path)


def exchange_pairs(
    clips: Sequence[Verdict], count: int | None = None, fit: Callable[[int, int], bool] = lambda first, second: True
) -> list[tuple[int, int]]:
    """Pairs of clips that differ in all that the oracle tells, so that nothing it sees can be of both.

    The two differ in shape and axis, and by more than twice `COLOUR_TOLERANCE` in both colours. No clip is in two
    pairs; each is paired with the first later one that will do.

    Args:
        clips: what each shows.
        count: pairs wanted; None takes all there are.
        fit: a further condition on two indices.
    """
    pairs, free = [], list(range(len(clips)))
    while free and len(pairs) != count:
        first = free.pop(0)
        partner = next(
            (other for other in free if _all_differs(clips[first], clips[other]) and fit(first, other)), None
        )
        if partner is not None:
            free.remove(partner)
            pairs.append((first, partner))
    return pairs


def both_ways(pairs: Iterable[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Where structure and dynamics of every exchanged clip come from, if each pair is exchanged both ways.

    Returns:
        Two lists of indices, each twice as long as `pairs`.
    """
    pairs = list(pairs)
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return first + second, second + first


def whose(
    seen: Sequence[Verdict], structure: Sequence[Verdict], dynamics: Sequence[Verdict]
) -> dict[str, dict[str, float | None]]:
    """Whose content and motion clips show that have their two latents from different clips.

    Args:
        seen: verdicts on the decoded clips.
        structure, dynamics: what the clips show that gave these latents.

    Returns:
        For "structure" and "dynamics", what the clips share with the source of this latent, as `agreement` says,
        averaged over the clips; `path_distance` over those with a path, None where none has one. For "neither", the
        shares of clips whose `shape`, `background`, `colour`, `content` and `axis` are of neither source.
    """
    rows = {"structure": structure, "dynamics": dynamics}
    found = {
        name: [agreement(clip, source) for clip, source in zip(seen, sources, strict=True)]
        for name, sources in rows.items()
    }
    neither = {
        name: float(np.mean([not (a[name] or b[name]) for a, b in zip(*found.values(), strict=True)]))
        for name in (*CONTENT, "content", "axis")
    }
    return {name: mean_agreement(values) for name, values in found.items()} | {"neither": neither}


def agreement(seen: Verdict, source: Verdict) -> dict[str, float]:
    """What a clip has in common with another one.

    Args:
        seen: the verdict on the clip.
        source: what the other one shows.

    Returns:
        1 or 0 for `shape`, for `background` and `colour` (within `COLOUR_TOLERANCE`), for all three together as
        `content`, and for the `axis`. `path_correlation`: of the centroid's path with the source's, along the source's
        axis, 0 where no path is seen. `path_distance`: between the two paths, in pixels, mean over time, NaN where none
        is seen.
    """
    result = {"shape": seen.shape == source.shape}
    for name in CONTENT[1:]:
        result[name] = bool(np.linalg.norm(getattr(seen, name) - getattr(source, name)) <= COLOUR_TOLERANCE)
    result["content"] = all(result[name] for name in CONTENT)
    result["axis"] = seen.motion == source.motion
    is_seen = np.isfinite(seen.path).all(axis=1)
    if not is_seen.any():
        return result | {"path_correlation": 0.0, "path_distance": np.nan}
    path, expected = seen.path[is_seen], source.path[is_seen]
    along = 0 if source.motion == "horizontal" else 1
    distance = np.linalg.norm(path - expected, axis=1).mean()
    return result | {
        "path_correlation": _correlation(path[:, along], expected[:, along]),
        "path_distance": float(distance),
    }


def mean_agreement(values: Sequence[dict[str, float]]) -> dict[str, float | None]:
    """Mean over clips of what `agreement` returns; `path_distance` over those with a path, None where none has one."""
    means = {name: float(np.mean([value[name] for value in values])) for name in values[0] if name != "path_distance"}
    distances = [value["path_distance"] for value in values if np.isfinite(value["path_distance"])]
    return means | {"path_distance": float(np.mean(distances)) if distances else None}


def nearness(exchanged: torch.Tensor, structure: torch.Tensor, dynamics: torch.Tensor) -> dict[str, float | None]:
    """How far the content is of the structure's source, and the motion of the dynamics' source, by pixels alone.

    Both are compared on a grid of `NEARNESS_GRID` cells a side, so that outlines hardly count. Content is the colours
    of the mean frame. Motion is where and when a clip changes: the magnitude over RGB of the differences of
    neighbouring frames, scaled to unit norm, so that neither the colours nor the contrast of what moves count. With
    the Euclidean distances a and b of the exchanged clip from the right and the wrong source, the nearness is
    b / (a + b): 1 is the right source's, 0 the wrong one's, and 0.5 as near to either. A content leaves its trace in
    where a clip changes, and a motion in the mean frame, so that a perfect exchange stays below 1: on moving shapes of
    16 frames it reaches 0.81 for content and 0.70 for motion.

    Args:
        exchanged: decoded clips with their latents from two sources, float (B, 3, T, H, W).
        structure, dynamics: reconstructions of the sources of the latents, likewise.

    Returns:
        `content` and `motion`, means over the clips whose sources differ in it; None if there are none.
    """
    colours = (_cells(video.mean(dim=2)) for video in (exchanged, structure, dynamics))  # (B, N) each
    changes = (
        normalize(_cells(video.diff(dim=2).norm(dim=1)), dim=1) for video in (exchanged, dynamics, structure)
    )  # (B, N) each
    return {"content": _mean_nearness(*colours), "motion": _mean_nearness(*changes)}


@torch.no_grad()
def exchange_scalars(vae: AutoencoderVidTwin, clips: torch.Tensor, are_shapes: bool) -> dict[str, float]:
    """What an exchange of latents shows on a few held-out clips, for a record during training.

    Clips are encoded once and decoded twice. On moving shapes, each pair of `exchange_pairs` is exchanged both ways and
    judged by the oracle, which takes some milliseconds a clip; as no rendering confirms that the one's content stays
    within the frame in the other's motion, a perfect autoencoder may stay a little below 1. On other data, each clip
    takes the dynamics of the next one.

    Args:
        vae: in eval mode.
        clips: uint8 (B, T, H, W, 3).
        are_shapes: whether they are moving shapes.

    Returns:
        Scalars in [0, 1] by name: `exchange/content_nearness` and `exchange/motion_nearness` as in `nearness`; on
        moving shapes also the shares of clips with the `content`, `shape`, `background`, `colour` and `axis` of the
        clip that gave the structure or the dynamics, as in `exchange/shape_of_structure`, and their
        `path_correlation`, in [-1, 1]. What cannot be measured, such as an exchange of a single clip, is left out.
    """
    sources = [oracle(clip) for clip in clips.cpu()] if are_shapes else []
    if are_shapes:
        structure_of, dynamics_of = both_ways(exchange_pairs(sources))
    else:
        structure_of, dynamics_of = list(range(len(clips))), [*range(1, len(clips)), 0]
    if not structure_of or len(clips) < 2:
        return {}
    latents = encode_clips(vae, clips)
    own = decode_float_clips(vae, latents)  # (B, 3, T, H, W)
    exchanged = decode_float_clips(vae, VidTwinLatents(latents.structure[structure_of], latents.dynamics[dynamics_of]))
    near = nearness(exchanged, own[structure_of], own[dynamics_of])
    scalars = {f"exchange/{name}_nearness": value for name, value in near.items() if value is not None}
    if are_shapes:
        seen = [oracle(clip) for clip in to_uint8(exchanged).cpu()]
        rows = whose(seen, [sources[index] for index in structure_of], [sources[index] for index in dynamics_of])
        for latent in ("structure", "dynamics"):
            shares = {name: value for name, value in rows[latent].items() if name != "path_distance"}
            scalars |= {f"exchange/{name}_of_{latent}": value for name, value in shares.items()}
    return scalars


def _all_differs(first: Verdict, second: Verdict) -> bool:
    colours = [np.linalg.norm(getattr(first, name) - getattr(second, name)) for name in CONTENT[1:]]
    return (
        first.shape != second.shape
        and first.motion != second.motion
        and "none" not in (first.shape, second.shape, first.motion, second.motion)
        and min(colours) > 2 * COLOUR_TOLERANCE
    )


def _correlation(values: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's, 0 where either does not vary."""
    if len(values) < 2 or values.std() == 0 or expected.std() == 0:
        return 0.0
    return float(np.corrcoef(values, expected)[0, 1])


def _cells(pictures: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) to (B, C `NEARNESS_GRID`^2): means over the cells of the grid."""
    return adaptive_avg_pool2d(pictures, NEARNESS_GRID).flatten(1)


def _mean_nearness(exchanged: torch.Tensor, right: torch.Tensor, wrong: torch.Tensor) -> float | None:
    """Mean of b / (a + b) over the rows (B, N) whose sources differ; None if there are none."""
    near, far = ((exchanged - source).norm(dim=1) for source in (right, wrong))
    differ = (right - wrong).norm(dim=1) > 0
    return (far / (near + far))[differ].mean().item() if differ.any() else None
