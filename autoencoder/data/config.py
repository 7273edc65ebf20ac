"""Settings of a run's data: which clips, and how they are read."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from autoencoder.common.errors import UserError, first_few

if TYPE_CHECKING:
    from autoencoder.data.clips import ClipDataset
    from autoencoder.data.folder import VideoFiles, VideoFolder
    from autoencoder.data.ucf101.dataset import UCF101

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
    classes: list[str] | None = None
    """Classes whose videos are taken, such as BenchPress,Diving, for `ucf101`, `folder` and `shapes`; ids count within
    them. Null takes all; of `shapes` the ten of five shapes, beside which there are diamond_horizontal and
    diamond_vertical."""
    allow_missing: bool = False
    """Go on with those of UCF-101's listed videos that are there; without `classes`, its classes are those with a
    video."""
    held_out_contents: list[str] | None = None
    """Contents to hold out, such as person06,person07, in place of UCF-101's lists or a share of `folder`. A content of
    UCF-101 is a class and group, such as BenchPress_g01, or a group of every class, such as g01."""
    content_pattern: str | None = None
    r"""Regular expression that finds the content of a video of `folder` in its path below the folder, such as
    person\d+: all of the match, or its first group if it has one. Null takes the manifest's column `content`."""
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
        self._check_choice()

    def _check_choice(self) -> None:
        """Refuse a choice of videos that the data set does not know, which would be passed over without a word."""
        known_to = {"classes": ("ucf101", "folder", "shapes"), "held_out_contents": ("ucf101", "folder")}
        known_to |= {"allow_missing": ("ucf101",), "content_pattern": ("folder",)}
        known_to |= {"data_root": ("folder", "ucf101", "sprites"), "held_out_root": ("folder",)}
        for name, data_sets in known_to.items():
            value = getattr(self, name)
            if value not in (None, False) and self.dataset not in data_sets:
                known = " and ".join(filter(None, (", ".join(data_sets[:-1]), data_sets[-1])))
                where = f"give --dataset {' or '.join(data_sets)}, or leave it out"
                raise UserError(f"{name}={value!r} is for {known}, not for {self.dataset}: {where}")
            if isinstance(value, list) and (not all(map(str.strip, value)) or len(set(value)) < max(1, len(value))):
                raise UserError(f"{name} must be different names, at least one, got {value}")
        if self.held_out_contents is not None and self.held_out_root is not None:
            raise UserError(
                f"held_out_contents={self.held_out_contents} and held_out_root={self.held_out_root!r} both say what is "
                "held out: leave one out"
            )
        try:
            re.compile(self.content_pattern or "")
        except re.error as error:
            raise UserError(f"content_pattern={self.content_pattern!r} is no regular expression: {error}") from error

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

        With `held_out_root` both parts are listed and compared, whichever is wanted. The first process prints of which
        classes there is no training video.

        Args:
            split: "train", or "val" for the held-out part.
            num_frames: frames of a clip.
            size: height and width of a clip, in pixels.

        Raises:
            MissingFileError: if the data are not there; the message says what to put where.
            UserError: if a held-out video is of a class that no training video has, or a training video itself, or of
                the content of one; if there is no such class or content; or if the part is empty.
        """
        # Imported here, so that a command's --help does not wait for the libraries that read videos.
        from autoencoder.data.shapes import Shapes
        from autoencoder.data.sprites import Sprites

        if self.dataset == "shapes":
            return Shapes(num_frames, size, split, self.classes)
        if self.dataset == "sprites":
            return Sprites(self.root, num_frames, size, split)
        options = {"num_frames": num_frames, "size": size, "crop": self.crop if split == "train" else "center"}
        options |= {name: getattr(self, name) for name in ("sample_fps", "sampling", "decoder", "classes")}
        options["keep_mib"] = self.keep_decoded
        clips = self._folder(split, options) if self.dataset == "folder" else self._ucf101(split, options)
        if split == "train":
            _tell_untrained(clips)
        return clips

    def _folder(self, split: str, options: dict[str, Any]) -> "VideoFolder":
        from autoencoder.data.folder import VideoFolder

        options |= {"content_pattern": self.content_pattern}
        if self.held_out_root is None:
            return VideoFolder(self.root, split=split, held_out_contents=self.held_out_contents, **options)
        train = VideoFolder(self.root, split="train", val_share=0.0, **options)  # each folder is one split
        options |= {"class_names": train.class_names}
        held_out = VideoFolder(self.held_out_root, split="val", val_share=1.0, **options)
        _check_disjoint(train, held_out)
        return train if split == "train" else held_out

    def _ucf101(self, split: str, options: dict[str, Any]) -> "UCF101":
        from autoencoder.data.ucf101.dataset import UCF101

        choice = {"held_out_contents": self.held_out_contents, "allow_missing": self.allow_missing}
        part = "train" if split == "train" else "test"
        return UCF101(self.root, split=part, fold=self.ucf101_fold, **choice, **options)


def _tell_untrained(clips: "VideoFiles") -> None:
    """Print of which classes there is no training video."""
    from autoencoder.data.choice import classes_without_video
    from autoencoder.data.remarks import print_once

    if untrained := classes_without_video(clips.listing):
        print_once(f"{clips.root}: no training video is of the classes {first_few(untrained, 10)}")


def _check_disjoint(train: "VideoFolder", held_out: "VideoFolder") -> None:
    """Refuse held-out videos that are training videos, or of the content of one."""
    from autoencoder.data.choice import contents_of

    held_out_files = set(_files(held_out))
    shared = sorted(held_out_files.intersection(_files(train)))
    if shared:
        raise UserError(
            f"{len(shared)} of the held-out videos are training videos, too, the first one {shared[0]}: give a "
            "--held-out-root apart from --data-root, or none, which holds out a share"
        )
    contents = sorted(contents_of(train.listing) & contents_of(held_out.listing))
    if contents:
        raise UserError(
            f"{len(contents)} contents of the held-out videos in {held_out.root} are those of training videos, the "
            f"first one {contents[0]!r}: hold out videos of other contents"
        )


def _files(videos: "VideoFolder") -> Iterator[str]:
    """Absolute paths without links; a folder is looked at once, however many videos it holds."""
    real_folder = cache(os.path.realpath)
    for path in videos.listing.paths:
        folder, name = os.path.split(os.path.join(videos.root, path))
        file = os.path.join(real_folder(folder), name)
        yield os.path.realpath(file) if os.path.islink(file) else file
