"""The base class of distances between two sets of videos, which holds the feature extractor."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import nn
from torchmetrics import Metric

from autoencoder.common.device import to_device
from autoencoder.common.errors import UserError
from autoencoder.metrics.i3d import I3D, check_video, full_precision, only_moving

REAL, FAKE = "real", "fake"  # first words of the names of the states


class VideoFeatureExtractor(Protocol):
    """Maps videos to feature vectors.

    It may have an `identity`, a dict that JSON can hold with at least "name", which tells its features from those of
    other extractors.
    """

    num_features: int

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """Features (B, num_features) of a float32 video (B, 3, T, H, W) in [0, 1]."""


class FeatureDistance(Metric):
    """A distance between the features of real and of fake videos.

    The extractor is not a submodule: it moves with the metric from device to device, but is in no state dict and in no
    list of parameters, and neither the metric's mode nor its dtype nor autocast affect it. The states stay float64.
    Subclasses keep states whose names begin with "real" or "fake" and define `_add` and `compute`.

    Args:
        feature_extractor: such as `I3D`; one that is a `torch.nn.Module` is frozen and put into eval mode.
        reset_real_features: whether `reset` forgets the real videos too.
        kwargs: as `torchmetrics.Metric` takes them.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    short_name: ClassVar[str]  # in published tables, with the known weights of I3D
    long_name: ClassVar[str]

    def __init__(self, feature_extractor: VideoFeatureExtractor, reset_real_features: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        if isinstance(feature_extractor, nn.Module):
            feature_extractor.requires_grad_(False).eval()
        self._extractor = (feature_extractor,)  # nn.Module registers no module that is inside a tuple
        self.num_features = feature_extractor.num_features
        self.reset_real_features = reset_real_features

    @property
    def identity(self) -> dict[str, Any]:
        """Name and origin of the extractor, for reports."""
        extractor = self._extractor[0]
        nameless = {"name": getattr(extractor, "__name__", type(extractor).__name__), "num_features": self.num_features}
        return dict(getattr(extractor, "identity", nameless))

    @property
    def title(self) -> str:
        """Name of the distance and of its extractor: the published name only with an I3D of known weights."""
        is_published = isinstance(self._extractor[0], I3D) and self.identity["known"]
        name = self.identity["name"]
        return f"{self.short_name}, {name}" if is_published else f"{self.long_name} ({name})"

    @torch.no_grad()
    def extract(self, video: torch.Tensor) -> torch.Tensor:
        """The features of videos, without adding them to the states.

        Args:
            video: (B, 3, T, H, W), uint8 or float in [0, 1].

        Returns:
            float32 (B, D), on the device of the metric.

        Raises:
            ValueError: if the video does not fit, or the extractor does not return (B, D). On the CPU features must be
                finite (UserError); on other devices `compute` checks that.
        """
        extractor = self._extractor[0]
        video = to_device(video, self.device)
        is_whole = video.dtype == torch.uint8  # then nothing lies outside, and the device need not be asked
        video = video.float() / 255 if is_whole else video
        check_video(video, 0, 1, check_range=not is_whole)
        if isinstance(extractor, nn.Module):
            extractor.eval()  # for it may be a part of another module, too
        with full_precision(self.device):
            checked = {"check_range": False} if isinstance(extractor, I3D) else {}
            features = extractor(video.float(), **checked).float()  # (B, D)
        if len(features) != len(video):
            raise ValueError(f"the extractor gave features {tuple(features.shape)} for {len(video)} videos")
        self._check(features)
        return features

    def update(self, video: torch.Tensor, real: bool) -> None:
        """Add videos.

        Args:
            video: (B, 3, T, H, W), uint8 or float in [0, 1].
            real: whether they are real or fake.

        Raises:
            ValueError, UserError: as `extract`.
        """
        self._add(self.extract(video).double(), REAL if real else FAKE)

    def update_features(self, features: torch.Tensor, real: bool) -> None:
        """Add videos by their features, as `extract` gives them.

        Args:
            features: float (B, D); B may be 0.
            real: whether they are those of real or fake videos.

        Raises:
            ValueError: if the shape does not fit.
            UserError: if a value is not finite.
        """
        self._check(features)
        self._computed = None
        self._update_count += 1
        self._add(features.detach().to(self.device, torch.float64), REAL if real else FAKE)

    def forward(self, video: torch.Tensor, real: bool) -> None:
        """The same as `update`: a batch has no distance of its own."""
        self.update(video, real)

    def reset(self) -> None:
        """Forget the fake videos, and the real ones too unless `reset_real_features` is off."""
        kept = {} if self.reset_real_features else {name: getattr(self, name) for name in self._real_states()}
        kept = {name: list(state) if isinstance(state, list) else state for name, state in kept.items()}
        super().reset()
        for name, state in kept.items():
            setattr(self, name, state)

    def _add(self, features: torch.Tensor, side: str) -> None:
        """Features float64 (B, D) for "real" or "fake"."""
        raise NotImplementedError

    def _real_states(self) -> list[str]:
        return [name for name in self._defaults if name.startswith(REAL)]

    def _check(self, features: torch.Tensor) -> None:
        if features.ndim != 2 or features.shape[1] != self.num_features or not features.is_floating_point():
            raise ValueError(
                f"features must be float (B, {self.num_features}), got {features.dtype} {tuple(features.shape)}"
            )
        if features.device.type == "cpu":  # elsewhere it would wait for the device; `compute` looks at their sums
            check_finite(features)

    def _apply(
        self, fn: Callable[[torch.Tensor], torch.Tensor], exclude_state: Sequence[str] = ""
    ) -> "FeatureDistance":
        moving = only_moving(fn)
        if isinstance(self._extractor[0], nn.Module):
            self._extractor[0]._apply(moving)
        return super()._apply(moving, exclude_state)


def check_finite(features: torch.Tensor) -> None:
    """Refuse features, or sums of features, that are not finite.

    Raises:
        UserError: if a value is not finite.
    """
    if not features.isfinite().all():
        raise UserError("the features hold values that are not finite")


def require_two(**counts: int) -> None:
    """Refuse sets of fewer than two videos, given their sizes by name.

    Raises:
        UserError: if a set is too small.
    """
    if min(counts.values()) < 2:
        found = " and ".join(f"{count} {side}" for side, count in counts.items())
        raise UserError(f"a distance between two sets takes at least 2 videos of each, got {found}")
