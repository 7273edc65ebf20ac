"""Settings of a run's data: which clips, and how they are read."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from autoencoder.common.errors import UserError

if TYPE_CHECKING:
    from autoencoder.data.clips import ClipDataset
    from autoencoder.data.folder import VideoFolder

HELD_OUT_SHARE = 0.05  # of the videos of one folder


@dataclass
class DataConfig:
    """Which clips to read, and how.

    MAY_CHANGE is as in `RunConfig`.
    """

    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset({"num_workers", "keep_decoded", "max_bad_share"})

    dataset: Literal["shapes", "sprites", "ucf101", "folder"] = "shapes"
    """Data set: moving shapes made on the fly, the Sprites benchmark, an unpacked UCF-101, or a folder or CSV manifest
    of videos."""
    data_root: str | None = None
    """Folder (or .csv manifest, or for `sprites` the .npz file) of the data set; data/<dataset> by default. `shapes`
    needs none."""
    held_out_root: str | None = None
    """Folder or manifest of the held-out videos of `folder`, whose classes are matched by name with those of data_root;
    null holds out a share of data_root."""
    sample_fps: float | None = 8.0
    """Frames per second of a clip; null takes every frame."""
    sampling: Literal["time", "stride"] = "time"
    """Choose frames by time stamps, or every round(fps / sample_fps)-th."""
    crop: Literal["center", "random"] = "random"
    """Crop of training clips; held-out clips are cropped in the centre."""
    decoder: Literal["auto", "decord", "pyav"] = "auto"
    """Reader of video files; auto is PyAV, which reads all that FFmpeg reads and flags damage. decord refuses files
    whose frames it would not give as PyAV does, with the reason."""
    flip: bool = False
    """Mirror half of the training clips; only for data sets whose labels allow it."""
    ucf101_fold: int = 1
    """Official train/test split of UCF-101: 1, 2 or 3."""
    num_workers: int = 0
    """Processes that read clips, or make batches of cached latents, per training process."""
    keep_decoded: int = 0
    """Memory for decoded videos, in MiB per process that reads: a training set of few short videos is decoded once."""
    max_bad_share: float = 0.1
    """The run stops when more than this share of the files tried cannot be read."""

    def __post_init__(self):
        if self.sample_fps is not None and not self.sample_fps > 0:
            raise UserError(f"sample_fps must be positive or null, got {self.sample_fps}")
        if self.ucf101_fold not in (1, 2, 3):
            raise UserError(f"ucf101_fold must be 1, 2 or 3, got {self.ucf101_fold}")
        if self.num_workers < 0:
            raise UserError(f"num_workers must be at least 0, got {self.num_workers}")
        if self.keep_decoded < 0:
            raise UserError(f"keep_decoded must be at least 0, got {self.keep_decoded}")
        if not 0 <= self.max_bad_share <= 1:
            raise UserError(f"max_bad_share must lie in [0, 1], got {self.max_bad_share}")

    @property
    def reads_videos(self) -> bool:
        """Whether the clips come from video files, one or more each."""
        return self.dataset in ("ucf101", "folder")

    @property
    def root(self) -> Path:
        """`data_root`, or its default."""
        return Path(self.data_root or f"data/{self.dataset}")

    def build(self, split: Literal["train", "val"], num_frames: int, size: int) -> "ClipDataset":
        """The training or held-out part of the data set.

        With `held_out_root` both parts are listed and compared, whichever is wanted.

        Args:
            split: "train", or "val" for the held-out part.
            num_frames: frames of a clip.
            size: height and width of a clip, in pixels.

        Raises:
            MissingFileError: if the data are not there; the message says what to put where.
            UserError: if a held-out video is of a class that no training video has, or a training video itself.
        """
        # Imported here, so that a command's --help does not wait for the libraries that read videos.
        from autoencoder.data.folder import VideoFolder
        from autoencoder.data.shapes import Shapes
        from autoencoder.data.sprites import Sprites
        from autoencoder.data.ucf101.dataset import UCF101

        if self.dataset == "shapes":
            return Shapes(num_frames, size, split)
        if self.dataset == "sprites":
            return Sprites(self.root, num_frames, size, split)
        reading = {"sample_fps": self.sample_fps, "sampling": self.sampling, "decoder": self.decoder}
        reading["keep_mib"] = self.keep_decoded
        crop = self.crop if split == "train" else "center"
        if self.dataset == "folder":
            if self.held_out_root is None:
                return VideoFolder(self.root, num_frames, size, split=split, crop=crop, **reading)
            options = {"num_frames": num_frames, "size": size, "crop": crop, **reading}  # each folder is one split
            train = VideoFolder(self.root, split="train", val_share=0.0, **options)
            held_out = VideoFolder(self.held_out_root, split="val", val_share=1.0, classes=train.class_names, **options)
            _check_disjoint(train, held_out)
            return train if split == "train" else held_out
        part = "train" if split == "train" else "test"
        return UCF101(self.root, num_frames, size, split=part, fold=self.ucf101_fold, crop=crop, **reading)


def _check_disjoint(train: "VideoFolder", held_out: "VideoFolder") -> None:
    """Refuse held-out videos that are training videos."""
    held_out_files = set(_files(held_out))
    shared = sorted(held_out_files.intersection(_files(train)))
    if shared:
        raise UserError(
            f"{len(shared)} of the held-out videos are training videos, too, the first one {shared[0]}: give a "
            "--held-out-root apart from --data-root, or none, which holds out a share"
        )


def _files(videos: "VideoFolder") -> Iterator[str]:
    """Absolute paths without links; a folder is looked at once, however many videos it holds."""
    real_folder = cache(os.path.realpath)
    for path in videos.listing.paths:
        folder, name = os.path.split(os.path.join(videos.root, path))
        file = os.path.join(real_folder(folder), name)
        yield os.path.realpath(file) if os.path.islink(file) else file
