"""Judges of real clips that need no training: the nearest class mean in features of whole clips."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from autoencoder.common.errors import UserError

BINS = 10  # per colour channel


class NearestMean:
    """Names the class whose mean is nearest, by the cosine of the angle between features and mean.

    With logits of I3D it tells actions, with `colour_histogram` whose clothes and surroundings are seen.

    Args:
        features: float (N, D) of clips of known class.
        labels: int64 (N,), their classes; the classes are the values that occur.

    Raises:
        UserError: if there are not as many labels as features, or none.
    """

    def __init__(self, features: torch.Tensor, labels: Sequence[int] | torch.Tensor):
        labels = torch.as_tensor(labels)
        if len(features) != len(labels) or not len(labels):
            raise UserError(f"a judge needs one label per clip, got {len(labels)} for {len(features)} clips")
        self.classes = labels.unique()
        self.means = torch.stack([features[labels == label].double().mean(dim=0) for label in self.classes])

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Class of every clip, int64 (N,), from its features (N, D)."""
        cosines = F.normalize(features.double(), dim=1) @ F.normalize(self.means, dim=1).T  # (N, classes)
        return self.classes[cosines.argmax(dim=1)]


def left_out_verdicts(
    features: torch.Tensor, labels: Sequence[int] | torch.Tensor, groups: Sequence[int] | torch.Tensor
) -> torch.Tensor:
    """What a `NearestMean` says of the clips of each group when it knows those of all other groups only.

    Args:
        features: float (N, D).
        labels: int64 (N,).
        groups: int64 (N,), such as the person in each clip.

    Returns:
        int64 (N,); the share that equals `labels` is the judge's accuracy.

    Raises:
        UserError: if there is only one group.
    """
    labels, groups = torch.as_tensor(labels), torch.as_tensor(groups)
    if len(groups.unique()) < 2:
        raise UserError("no judge can be tried on a group left out: there is only one")
    verdicts = torch.empty_like(labels)
    for group in groups.unique():
        inside = groups == group
        verdicts[inside] = NearestMean(features[~inside], labels[~inside])(features[inside])
    return verdicts


def colour_histogram(frames: torch.Tensor) -> torch.Tensor:
    """Which colours a clip shows, wherever they are: the square root of a histogram.

    A colour counts for the eight nearest of `BINS`^3 bins by how near they are, so that a small change of colour is a
    small change of the histogram. Of the square roots, the angle is that of the Hellinger distance.

    Args:
        frames: uint8 (T, H, W, 3).

    Returns:
        float32 (BINS^3,), of length 1.
    """
    places = frames.reshape(-1, 3).float() / 255 * (BINS - 1)
    low = places.floor().clamp(max=BINS - 2)  # (N, 3)
    shares = torch.stack([1 - (places - low), places - low], dim=2)  # (N, 3, 2)
    weights = torch.einsum("ni,nj,nk->nijk", *shares.unbind(dim=1))  # (N, 2, 2, 2)
    steps = torch.tensor([BINS**2, BINS, 1])
    corners = torch.cartesian_prod(*3 * [torch.arange(2)]) @ steps  # (8,)
    bins = (low.long() @ steps)[:, None] + corners  # (N, 8)
    histogram = torch.zeros(BINS**3).index_add_(0, bins.flatten(), weights.flatten())
    return (histogram / len(places)).sqrt()
