"""Frechet distance between the features of two sets of videos; FVD with the logits of I3D.

Unterthiner et al., "Towards Accurate Generative Models of Video" (2018): both sets are taken for Gaussians, and
FD = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)).
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from torchmetrics.utilities import rank_zero_warn

from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.common.files import atomic_path
from autoencoder.metrics.distance import FAKE, REAL, FeatureDistance, VideoFeatureExtractor, check_finite, require_two

LOADED = "real_loaded"
STATISTICS = ("sum", "outer", "count")


def matrix_root(covariance: torch.Tensor) -> torch.Tensor:
    """Symmetric square root of a covariance, float64 (D, D); eigenvalues below rounding error count as zero."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    rounding = values.max() * len(values) * torch.finfo(values.dtype).eps
    roots = torch.where(values > rounding, values, 0).sqrt()
    return (vectors * roots) @ vectors.T


def frechet_distance(
    mean: torch.Tensor, covariance: torch.Tensor, other_mean: torch.Tensor, other_covariance: torch.Tensor
) -> torch.Tensor:
    """Frechet distance of two Gaussians.

    tr (S_1 S_2)^(1/2) is the sum of the singular values of S_1^(1/2) S_2^(1/2), which needs neither complex numbers nor
    a multiple of the identity added to covariances of fewer samples than features.

    Args:
        mean, other_mean: float64 (D,).
        covariance, other_covariance: float64 (D, D).

    Returns:
        float64 scalar, at least 0.
    """
    roots = torch.linalg.svdvals(matrix_root(covariance) @ matrix_root(other_covariance)).sum()
    distance = (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * roots
    return distance.clamp(min=0)


def of_first_process(states: torch.Tensor) -> torch.Tensor:
    """Reduction of a state that is the same in every process: (processes, ...) -> (...)."""
    return states[0]


class FrechetVideoDistance(FeatureDistance):
    """Frechet distance between the features of real and of fake videos; 0 for equal sets, lower is better.

    It keeps sums only, in float64, so that any number of videos takes the same memory, and over several processes, with
    shares of any size, the result is that of one. The distance of finite sets is biased upwards by about 1 / N: compare
    it only between equal numbers of videos.

    Args:
        feature_extractor: as `FeatureDistance` takes it, such as `I3D.installed()`.
        reset_real_features: whether `reset()` forgets the real videos, too.
        kwargs: of `torchmetrics.Metric`.
        unbiased: covariances by N - 1 instead of N. StyleGAN-V and Latte divide by N.
    """

    short_name = "FVD"
    long_name = "Frechet distance"

    def __init__(
        self,
        feature_extractor: VideoFeatureExtractor,
        reset_real_features: bool = True,
        unbiased: bool = True,
        **kwargs: Any,
    ):
        super().__init__(feature_extractor, reset_real_features, **kwargs)
        self.unbiased = unbiased
        size = self.num_features
        defaults = torch.zeros(size), torch.zeros(size, size), torch.zeros(())
        # Every process loads the same file, which must not count once per process.
        for side, reduction in ((REAL, "sum"), (FAKE, "sum"), (LOADED, of_first_process)):
            for name, default in zip(STATISTICS, defaults, strict=True):
                dtype = torch.int64 if name == "count" else torch.float64
                self.add_state(f"{side}_{name}", default.to(dtype), dist_reduce_fx=reduction)

    def compute(self) -> torch.Tensor:
        """The distance between all real and all fake videos, float64.

        Raises:
            UserError: if there are fewer than two of either, or features are not finite.
        """
        real, fake = self._statistics(REAL, LOADED), self._statistics(FAKE)
        for statistics in (real, fake):
            check_finite(statistics["sum"])
        counts = {"real": int(real["count"]), "fake": int(fake["count"])}
        require_two(**counts)
        if min(counts.values()) < self.num_features:
            rank_zero_warn(
                f"{counts['real']} real and {counts['fake']} fake videos are few for {self.num_features} features: "
                "such a distance compares only with distances between as many videos"
            )
        return frechet_distance(*self._gaussian(**real), *self._gaussian(**fake)).to(self.device)

    def save_real(self, path: str | Path, protocol: dict[str, Any]) -> None:
        """Write the statistics of the real videos for `load_real`; with several processes, all of them must call it.

        Args:
            path: path of an .npz file.
            protocol: what the numbers depend on, as a dict that JSON can hold.

        Raises:
            UserError: if there are fewer than two real videos.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute):
            statistics, is_first = self._statistics(REAL, LOADED), not self._is_synced or distributed.get_rank() == 0
        require_two(real=int(statistics["count"]))
        if is_first:
            arrays = {name: state.numpy() for name, state in statistics.items()}
            notes = {"protocol": json.dumps(protocol), "extractor": json.dumps(self.identity, sort_keys=True)}
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, **arrays, **notes)

    def load_real(self, path: str | Path) -> dict[str, Any]:
        """Replace all real videos by the statistics of a file of `save_real`; all processes must call it.

        Returns:
            The protocol that the file was written with.

        Raises:
            MissingFileError: if there is no such file.
            UserError: if it is not a file of `save_real`, or was written with another extractor.
        """
        stored = _read(path)
        extractor, expected = json.loads(str(stored["extractor"])), json.loads(json.dumps(self.identity))
        if extractor != expected:
            raise UserError(f"{path} holds features of another extractor: {extractor}, here it is {expected}")
        for name in STATISTICS:
            default = self._defaults[f"{LOADED}_{name}"]
            loaded = torch.from_numpy(stored[name]).to(default)
            if loaded.shape != default.shape:
                raise UserError(f"{path}: {name} must be {tuple(default.shape)}, got {tuple(loaded.shape)}")
            setattr(self, f"{LOADED}_{name}", loaded)
            setattr(self, f"{REAL}_{name}", default.clone())
        self._computed = None
        return json.loads(str(stored["protocol"]))

    def _add(self, features: torch.Tensor, side: str) -> None:
        added = features.sum(dim=0), features.T @ features, len(features)  # (D,), (D, D)
        for name, value in zip(STATISTICS, added, strict=True):
            setattr(self, f"{side}_{name}", getattr(self, f"{side}_{name}") + value)

    def _statistics(self, *sides: str) -> dict[str, torch.Tensor]:
        """Sum (D,), sum of outer products (D, D) and count (), on the CPU, where float64 is the same everywhere."""
        return {name: sum(getattr(self, f"{side}_{name}").cpu() for side in sides) for name in STATISTICS}

    def _gaussian(
        self, sum: torch.Tensor, outer: torch.Tensor, count: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mean = sum / count  # (D,)
        return mean, (outer - count * mean.outer(mean)) / (count - int(self.unbiased))  # (D,), (D, D)


def _read(path: str | Path) -> dict[str, np.ndarray]:
    if not Path(path).is_file():
        raise MissingFileError(f"no statistics of real videos at {path}: FrechetVideoDistance.save_real writes them")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in (*STATISTICS, "extractor", "protocol")}
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no file of FrechetVideoDistance.save_real: {error}") from error
