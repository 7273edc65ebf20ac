"""The oracle of moving shapes: it recognises shape and motion from pixels alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoencoder.data.shapes import AREA_SHARE, SHAPES, coverage


@dataclass(frozen=True)
class Verdict:
    """What the oracle recognises in a clip.

    Attributes:
        shape: one of the shapes looked for, or "none".
        motion: one of `MOTIONS`, or "none".
        colour: RGB of what stands before the background, in [0, 1], (3,), also if it is none of the shapes; NaN where
            nothing of one colour and of a plausible size is seen.
        centre: its mean centroid (x, y) as a share of the frame, (2,); NaN likewise.
        background: RGB of the background in [0, 1], (3,).
        path: centroid (x, y) per frame, (T, 2), in pixels from the left and the top edge; NaN in frames that do not
            show something of a plausible size.
    """

    shape: str
    motion: str
    colour: np.ndarray
    centre: np.ndarray
    background: np.ndarray
    path: np.ndarray


def oracle(frames: torch.Tensor | np.ndarray, shapes: Iterable[str] = SHAPES) -> Verdict:
    """Recognise shape and motion from pixels alone.

    A clip is explained as one colour mixed over another. Where that fails, or no frame holds a shape of a plausible
    size, the verdict is "none". The mixing weights, registered on their centroids and averaged over time, are compared
    with every shape; the path of the centroids tells the motion.

    Args:
        frames: uint8 (T, H, W, 3).
        shapes: the shapes to tell apart, keys of `ALL_SHAPES` (`shapes_of` names those of classes).
    """
    alpha, background, colour = _matte(np.asarray(frames, dtype=np.float64) / 255)
    nothing = Verdict(
        "none", "none", np.full(3, np.nan), np.full(2, np.nan), background, np.full((len(frames), 2), np.nan)
    )
    if alpha is None:
        return nothing
    mass = alpha.sum(axis=(1, 2))
    size = alpha.shape[-1]
    is_plausible = (mass > 0.5 * AREA_SHARE[0] * size**2) & (mass < 1.5 * AREA_SHARE[1] * size**2)
    if np.mean(is_plausible) < 0.75:
        return nothing
    centres = np.arange(size) + 0.5
    mass = np.maximum(mass, 1e-6)
    centre_x, centre_y = (alpha.sum(axis=axis) @ centres / mass for axis in (1, 2))
    shape = _best_shape(_registered_mean(alpha, centre_x, centre_y), size, shapes)
    motion = "none" if shape == "none" else _motion(centre_x, centre_y, size)
    centre = np.array([centre_x.mean(), centre_y.mean()]) / size
    path = np.where(is_plausible[:, None], np.stack([centre_x, centre_y], axis=1), np.nan)
    return Verdict(shape, motion, colour, centre, background, path)


def _matte(video: np.ndarray) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Mixing weights (T, H, W) of foreground over background, None where two colours do not do; and both colours."""
    border = np.concatenate([video[:, 0], video[:, -1], video[:, :, 0], video[:, :, -1]], axis=1)
    background = np.median(border, axis=(0, 1))
    difference = video - background
    strength = np.linalg.norm(difference, axis=-1)
    peak = np.quantile(strength, 1 - AREA_SHARE[0] / 2)
    if peak < 0.15:
        return None, background, background
    direction = np.median(difference[strength >= peak], axis=0)
    alpha = np.clip(difference @ direction / (direction @ direction), 0.0, 1.0)
    unexplained = ((difference - alpha[..., None] * direction) ** 2).sum() / (difference**2).sum()
    if unexplained > 0.25:
        return None, background, background
    return np.where(alpha < 0.2, 0.0, alpha), background, np.clip(background + direction, 0.0, 1.0)


def _registered_mean(alpha: np.ndarray, centre_x: np.ndarray, centre_y: np.ndarray) -> np.ndarray:
    """Mean over time with every centroid moved to the middle of the frame, bilinearly: (H, W)."""
    theta = torch.zeros(len(alpha), 2, 3, dtype=torch.float64)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    size = alpha.shape[-1]
    theta[:, 0, 2], theta[:, 1, 2] = (torch.from_numpy(2 * c / size - 1) for c in (centre_x, centre_y))
    grid = torch.nn.functional.affine_grid(theta, [len(alpha), 1, size, size], align_corners=False)
    moved = torch.nn.functional.grid_sample(torch.from_numpy(alpha)[:, None], grid, align_corners=False)
    return moved.mean(dim=(0, 1)).numpy()


def _best_shape(mask: np.ndarray, size: int, shapes: Iterable[str]) -> str:
    """The shape whose picture correlates best with the mask, over a range of areas."""
    middle = np.array([size / 2])

    def likeness(shape: str) -> float:
        pictures = [coverage(shape, mask.sum() * scale, middle, middle, size)[0] for scale in (0.8, 0.9, 1.0, 1.1, 1.2)]
        return max(np.corrcoef(mask.ravel(), picture.ravel())[0, 1] for picture in pictures)

    scores = {shape: likeness(shape) for shape in shapes}
    best = max(scores, key=scores.get)
    return best if scores[best] > 0.85 else "none"


def _motion(centre_x: np.ndarray, centre_y: np.ndarray, size: int) -> str:
    spread = {"horizontal": centre_x.std(), "vertical": centre_y.std()}
    best, other = sorted(spread, key=spread.get, reverse=True)
    return best if spread[best] > size / 40 and spread[best] > 2 * spread[other] else "none"


def confirms(verdict: Verdict, class_name: str) -> dict[str, bool]:
    """Whether a verdict names the `shape` and the `motion` of a class, such as "circle_vertical", and `both`."""
    shape, motion = class_name.split("_")
    right = {"shape": verdict.shape == shape, "motion": verdict.motion == motion}
    return right | {"both": all(right.values())}


def confirmed(verdicts: Sequence[Verdict], class_names: Sequence[str]) -> dict[str, float]:
    """Shares of verdicts, in [0, 1], that name the right shape, the right motion, and both.

    Args:
        verdicts: one per clip.
        class_names: the class of each clip.
    """
    right = [confirms(*pair) for pair in zip(verdicts, class_names, strict=True)]
    return {name: float(np.mean([clip[name] for clip in right])) for name in ("shape", "motion", "both")}
