"""The configs of stage two's commands."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autoencoder.data import DataConfig
from autoencoder.optimization import OptimizerConfig
from autoencoder.run import RunConfig
from generator.objective import ObjectiveConfig

CACHES = Path("outputs/latents")


@dataclass
class CacheConfig(DataConfig):
    """What a latent cache is a function of."""

    autoencoder: str | None = None
    """Folder of the autoencoder; by default the one that `python -m autoencoder.train` left last."""
    split: Literal["train", "val"] = "train"
    """Part of the data set."""
    max_videos: int | None = None
    """Take so many videos at most, chosen at random; null takes all."""
    clips_per_video: int = 1
    """Clips of every video: the middle one, then others at random places with the crop of `crop`."""
    flip: bool = False
    """Hold every clip mirrored, too; only for data sets whose labels allow it."""
    clip_seed: int = 0
    """The choice of videos and clips is a function of it."""
    shard_size: int = 512
    """Clips of a file of the cache."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("clips_per_video", "shard_size", "max_videos"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.shard_size % (1 + self.flip):
            raise ValueError(f"shard_size must be even where clips are mirrored, got {self.shard_size}")

    @property
    def settings(self) -> dict[str, Any]:
        """What tells this cache from others of the same autoencoder."""
        names = ("dataset", "sample_fps", "sampling", "crop", "ucf101_fold", "split", "max_videos", "clips_per_video")
        settings = {name: getattr(self, name) for name in (*names, "flip", "clip_seed")}
        return settings | {"data_root": None if self.dataset == "shapes" else str(self.root.resolve())}

    def cache_folder(self, fingerprint: str) -> Path:
        """Where the latents of the autoencoder with this fingerprint are kept by default."""
        name = self.dataset if self.split == "train" else f"{self.dataset}-{self.split}"
        return CACHES / f"{name}-{fingerprint[:12]}"


@dataclass
class CacheLatentsConfig(CacheConfig):
    """The cache, where it goes and where it is made."""

    output_dir: str | None = None
    """Folder of the cache; the one where `python -m generator.train` looks by default."""
    device: str = "auto"
    """Where to encode, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""


@dataclass
class TrainConfig(RunConfig, CacheConfig):
    """Everything a stage-two run is a function of, but the model."""

    latent_cache: str | None = None
    """Folder of the latent cache, made where there is none; outputs/latents/<dataset>-<autoencoder> by default."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What the model learns."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser and schedule."""
    ema_decay: float = 0.9999
    """Decay of the moving average of the weights, which is what the pipeline gets; it starts lower and grows."""
    sample_every: int = 1000
    """Steps between two looks at sampled videos; the last step always has one."""
    sample_classes: int = 4
    """Classes of a look, spread over all, one video each with a fixed seed."""
    sample_steps: int = 50
    """Scheduler steps of a look."""
    sample_guidance: float = 5.0
    """Weight of classifier-free guidance in a look; 1 turns it off."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, which saves memory."""

    def __post_init__(self):
        RunConfig.__post_init__(self)
        CacheConfig.__post_init__(self)
        for name in ("sample_every", "sample_classes", "sample_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
