"""Kernel distance between the features of two sets of videos; KVD with the logits of I3D."""

from collections.abc import Callable
from typing import Any

import torch
from torchmetrics.utilities.distributed import gather_all_tensors

from autoencoder.common.errors import UserError
from autoencoder.metrics.distance import FAKE, REAL, FeatureDistance, VideoFeatureExtractor, check_finite, require_two

ROWS_AT_A_TIME = 1024  # of the kernel matrix: 10,000 x 10,000 of them at once take 800 MB


class KernelVideoDistance(FeatureDistance):
    """Squared maximum mean discrepancy of the features of real and of fake videos, with a polynomial kernel.

    k(x, y) = (gamma x y + coef)^degree. The defaults are those of the published KVD; the unbiased estimate is 0 on
    average for equal distributions and may be negative, and unlike the Frechet distance it does not depend on the
    number of videos. All features are kept, and over several processes, with shares of any size, the result is that of
    one.

    Args:
        feature_extractor: as `FeatureDistance` takes it, such as `I3D.installed()`.
        reset_real_features: whether `reset()` forgets the real videos, too.
        kwargs: of `torchmetrics.Metric`.
        degree: the polynomial's degree, a whole number from 1 on.
        gamma: factor of the product; None takes 1 / D.
        coef: constant of the polynomial, at least 0.
        unbiased: leave out the pairs of a video with itself. JEDi (arXiv 2410.05203) is 100 times the biased estimate
            with degree=2 and coef=0.

    Raises:
        UserError: if the kernel's parameters do not fit.
    """

    short_name = "KVD"
    long_name = "kernel distance"

    def __init__(
        self,
        feature_extractor: VideoFeatureExtractor,
        reset_real_features: bool = True,
        degree: int = 3,
        gamma: float | None = None,
        coef: float = 1.0,
        unbiased: bool = True,
        **kwargs: Any,
    ):
        super().__init__(feature_extractor, reset_real_features, **kwargs)
        if degree < 1 or degree != int(degree) or coef < 0 or not (gamma is None or gamma > 0):
            raise UserError(
                "a polynomial kernel has a whole degree from 1 on, a positive gamma and a coef of at least 0, got "
                f"degree={degree}, gamma={gamma}, coef={coef}"
            )
        self.degree, self.coef, self.unbiased = int(degree), coef, unbiased
        self.gamma = 1 / self.num_features if gamma is None else gamma
        for side in (REAL, FAKE):
            self.add_state(side, [], dist_reduce_fx="cat")

    @property
    def title(self) -> str:
        """Name of the distance: its published one only with the published kernel and an I3D of known weights."""
        kernel = self.degree, self.gamma, self.coef, self.unbiased
        if kernel == (3, 1 / self.num_features, 1, True):
            return super().title
        return f"{self.long_name} ({self.identity['name']}, degree={self.degree}, coef={self.coef:g})"

    def compute(self) -> torch.Tensor:
        """The distance between all real and all fake videos, float64.

        Raises:
            UserError: if there are fewer than two of either, or features are not finite.
        """
        real, fake = self._joined(REAL), self._joined(FAKE)
        require_two(real=len(real), fake=len(fake))
        for features in (real, fake):
            check_finite(features)
        between = self._sum(real, fake) / (len(real) * len(fake))
        return self._mean_within(real) + self._mean_within(fake) - 2 * between

    def _kernel(self, products: torch.Tensor) -> torch.Tensor:
        """k by the products x y, of any shape."""
        return (self.gamma * products + self.coef) ** self.degree

    def _sum(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Sum of k over all pairs of a row (N, D) and a column (M, D)."""
        return sum(self._kernel(part @ columns.T).sum() for part in rows.split(ROWS_AT_A_TIME))

    def _mean_within(self, rows: torch.Tensor) -> torch.Tensor:
        """Mean of k over the pairs of rows (N, D), those of a row with itself left out where unbiased."""
        if not self.unbiased:
            return self._sum(rows, rows) / len(rows) ** 2
        with_themselves = self._kernel(rows.square().sum(dim=1)).sum()
        return (self._sum(rows, rows) - with_themselves) / (len(rows) * (len(rows) - 1))

    def _add(self, features: torch.Tensor, side: str) -> None:
        getattr(self, side).append(features)

    def _joined(self, side: str) -> torch.Tensor:
        """All features of a side, float64 (N, D)."""
        empty = torch.empty(0, self.num_features, dtype=torch.float64, device=self.device)
        return torch.cat([features.to(self.device) for features in (empty, *getattr(self, side))])

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None) -> None:
        # torchmetrics gathers lists item by item, which fails where processes hold different numbers of items or none.
        for side in (REAL, FAKE):
            setattr(self, side, list(dist_sync_fn(self._joined(side), group=process_group or self.process_group)))
