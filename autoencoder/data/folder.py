"""Videos in a folder tree or a CSV manifest, as a data set of clips."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from autoencoder.common.errors import MissingFileError, UserError, first_few
from autoencoder.common.seeding import derive_seed
from autoencoder.data.choice import composed, contents_of, find_classes, find_contents, of_named_contents
from autoencoder.data.config import HELD_OUT_SHARE
from autoencoder.data.groups import ContentGroups
from autoencoder.data.listing import (
    MANIFEST_HEADER,
    VIDEO_ENDINGS,
    ContentColumn,
    Listing,
    PathTable,
    read_manifest,
)
from autoencoder.data.remarks import print_once
from autoencoder.data.scan import scan_folder
from autoencoder.data.video_io import ClipReader, UnreadableVideo


class VideoFiles:
    """Clips of listed video files, a `ClipDataset`.

    The list is kept in arrays, not in Python objects: a million videos stay cheap, and forked workers share them. A
    file's existence is not checked before it is read.

    Args:
        root: folder that the paths are relative to.
        paths: one per video.
        reader: how clips are read.
        labels: one index into `class_names` per video; None when unlabelled.
        class_names: their names.
        windows: float (N, 2) seconds from `start` to `end`, inside which clips of the video lie; None for all of it.
        contents, content_names: as in `Listing`.
        flip_invariant: whether a clip may be mirrored without changing its label.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        reader: ClipReader,
        *,
        labels: Sequence[int] | None = None,
        class_names: Sequence[str] = (),
        windows: np.ndarray | None = None,
        contents: np.ndarray | None = None,
        content_names: Sequence[str] = (),
        flip_invariant: bool = True,
    ):
        self.root, self.reader = root, reader
        self.class_names, self.flip_invariant = tuple(class_names), flip_invariant
        self._paths = paths if isinstance(paths, PathTable) else PathTable(paths)
        self._labels = None if labels is None else np.asarray(labels, dtype=np.int32)
        self._windows = windows
        self._groups = None if contents is None else ContentGroups(contents)
        self._content_names = content_names

    def __len__(self) -> int:
        return len(self._paths)

    def label(self, index: int) -> int:
        """Index into `class_names`; -1 when unlabelled."""
        return -1 if self._labels is None else int(self._labels[index])

    def source(self, index: int) -> str:
        """Path of the video."""
        return str(self.root / self._paths[index])

    @property
    def listing(self) -> Listing:
        """All videos, with paths relative to `root`."""
        contents = None if self._groups is None else self._groups.contents
        return Listing(self._paths, self._labels, self.class_names, self._windows, contents, self._content_names)

    def clip(self, index: int, rng: np.random.Generator | None = None) -> torch.Tensor:
        """One clip of video `index`.

        Args:
            index: the video's index.
            rng: draws the start and the random crop; None takes the middle of the video and the centre.

        Returns:
            uint8 (T, H, W, 3).

        Raises:
            UnreadableVideo: if the file is unreadable, damaged where the clip lies, or too short.
        """
        start, end = self._window(index)
        return self.reader.read(self.source(index), rng, start=start, end=end)

    def companion(self, index: int, rng: np.random.Generator, same_clip: bool = False) -> torch.Tensor:
        """A clip of another video of the same content, or a moment of the same video where there is none.

        Args:
            index: the video's index.
            rng: draws the other video, the start and the random crop, the last two without regard to those of `clip`.
            same_clip: take a moment of the same video in any case.

        Returns:
            uint8 (T, H, W, 3).

        Raises:
            UnreadableVideo: as `clip`, naming the companion's file.
        """
        if not same_clip and self._groups is not None:
            index = self._groups.other(index, rng)
        return self.clip(index, rng)

    def too_short(self) -> list[str]:
        """Paths of the videos too short for one clip, judged by their headers; unreadable files are not among them."""
        return [self.source(index) for index in range(len(self)) if self._is_too_short(index)]

    def _is_too_short(self, index: int) -> bool:
        try:
            return self.reader.is_too_short(self.source(index), *self._window(index))
        except UnreadableVideo:
            return False

    def _window(self, index: int) -> tuple[float, float]:
        return (0.0, math.inf) if self._windows is None else tuple(self._windows[index].tolist())


class VideoFolder(VideoFiles):
    """Videos of a folder tree or of a CSV manifest, split into training and held-out videos.

    In a tree, the first-level sub-folders are the classes if every video lies in one; otherwise the videos are
    unlabelled. A manifest has the header `path[,label][,start][,end][,content]`: paths relative to its folder, labels
    by name, seconds, of which either may be empty, and a word for what is seen, which may be empty, too. Videos of the
    same split with the same word, such as takes of one person, are each other's companions. Classes are sorted by name.

    A video is held out by a hash of its content, or of its path where that is not known. So no content lies in both
    splits, nor does a file whose windows have one content, and adding files moves none from one split to the other.
    Which classes are taken changes nothing in that.

    Args:
        root: the folder or the .csv file.
        num_frames: frames of a clip.
        size: height and width of a clip in pixels.
        sample_fps: frames taken per second of video; None takes every frame.
        sampling: "time", by time stamps, or "stride", every so many frames.
        crop: "center" or "random".
        decoder: "auto", "pyav" or "decord", as in `ClipReader`.
        keep_mib: memory for decoded videos in every process that reads, in MiB.
        flip_invariant: whether a clip may be mirrored without changing its label.
        split: "train" or "val".
        val_share: share of the videos, or contents, to hold out, in [0, 1]; strictly between, both splits of the whole
            folder get at least one video, unless all are of one content.
        held_out_contents: words of the contents to hold out in place of the share.
        content_pattern: regular expression that is searched in every path relative to the root; its first group, or all
            that it matches if it has none, is the word of the content. None takes the column of the manifest.
        classes: names of the classes whose videos are taken; None takes all.
        class_names: class names in order, to which labels are matched by name; for held-out videos in a folder of their
            own, those of the training videos, of which some may have no video here. None takes `classes`, sorted.

    Raises:
        MissingFileError: if there is no such folder or manifest, or no video in it.
        UserError: if an argument or a line of the manifest does not fit, if there is no such class or content, or no
            path fits the pattern, or the split is empty.
    """

    def __init__(
        self,
        root: str | Path,
        num_frames: int,
        size: int,
        *,
        sample_fps: float | None = 8.0,
        sampling: str = "time",
        crop: str = "center",
        decoder: str = "auto",
        keep_mib: int = 0,
        flip_invariant: bool = True,
        split: str = "train",
        val_share: float = HELD_OUT_SHARE,
        held_out_contents: Sequence[str] | None = None,
        content_pattern: str | None = None,
        classes: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
    ):
        reading = {"sample_fps": sample_fps, "sampling": sampling, "crop": crop, "decoder": decoder}
        reader = ClipReader(num_frames, size, keep_mib=keep_mib, **reading)
        if split not in ("train", "val"):
            raise UserError(f"split={split!r} is none of train, val")
        if not 0 <= val_share <= 1:
            raise UserError(f"val_share={val_share}: must be in [0, 1]")
        root = Path(root)
        is_manifest = root.suffix.lower() == ".csv"
        if not (root.is_file() if is_manifest else root.is_dir()):
            problem = "it is a file" if root.is_file() else f"there is no such {'file' if is_manifest else 'folder'}"
            raise MissingFileError(_nothing_there(root, problem))
        listing = read_manifest(root) if is_manifest else scan_folder(root)
        if not listing.paths:
            raise MissingFileError(_nothing_there(root, "it lists no video" if is_manifest else "it holds no video"))
        if content_pattern is not None:
            listing = _with_contents(root, listing, content_pattern)
        if content_pattern is not None or held_out_contents is not None:
            _tell_unknown(root, listing)
        if held_out_contents is None:
            is_held_out = _held_out(listing, val_share)
        else:
            is_held_out = _named(root, listing, held_out_contents)
        chosen = listing.select(is_held_out == (split == "val"))
        if classes is not None:
            chosen = _of_classes(root, chosen, classes, may_lack=class_names is not None)
        if class_names is not None:
            chosen = _with_class_names(root, chosen, class_names)
        if not chosen.paths:
            raise _nothing_left(root, listing, split, val_share, held_out_contents, classes)
        super().__init__(
            root.parent if is_manifest else root,
            chosen.paths,
            reader,
            labels=chosen.labels,
            class_names=chosen.class_names,
            windows=chosen.windows,
            contents=chosen.contents,
            content_names=chosen.content_names,
            flip_invariant=flip_invariant,
        )


def _nothing_there(root: Path, problem: str) -> str:
    return (
        f"no videos in {root.absolute()}: {problem}. It must be a folder with {', '.join(VIDEO_ENDINGS)} files, in one "
        f"sub-folder per class or without classes, or a .csv file with the header {MANIFEST_HEADER}. "
        "`--dataset shapes` needs no files."
    )


def _nothing_left(
    root: Path,
    listing: Listing,
    split: str,
    val_share: float,
    held_out_contents: Sequence[str] | None,
    classes: Sequence[str] | None,
) -> UserError:
    of_classes = "" if classes is None else f" of the classes {first_few(classes, 10)}"
    if held_out_contents is not None:
        problem = "is held out" if split == "val" else "is left to train on"
        return UserError(f"{root}: no video{of_classes} {problem} with held_out_contents={list(held_out_contents)}")
    known = contents_of(listing)
    of_contents = f" of {len(known)} content{'s' * (len(known) > 1)}" if known else ""
    return UserError(
        f"{root}: no video{of_classes} falls into split={split!r} with val_share={val_share} of {len(listing.paths)} "
        f"videos{of_contents}. --held-out-root holds out another folder, --held-out-contents contents by name"
    )


def _with_contents(root: Path, listing: Listing, pattern: str) -> Listing:
    """The listing with the contents that its paths tell.

    Raises:
        UserError: if it has contents already, or no path fits the pattern.
    """
    if listing.contents is not None:
        raise UserError(f"{root} has a column `content`: leave out content_pattern={pattern!r}, or that column")
    expression, contents = re.compile(composed(pattern)), ContentColumn()
    for path in listing.paths:
        match = expression.search(composed(path))
        contents.append(match and match[min(1, expression.groups)])
    numbers, content_names = contents.columns
    if not content_names:
        raise UserError(
            f"{root}: content_pattern={pattern!r} finds a content in none of {len(listing.paths)} paths, such as "
            f"{first_few([listing.paths[0]])}"
        )
    return replace(listing, contents=numbers, content_names=content_names)


def _tell_unknown(root: Path, listing: Listing) -> None:
    """Print of which videos the content is not known, where only that of some is."""
    unknown = [] if listing.contents is None else np.flatnonzero(listing.contents < 0).tolist()
    if unknown:
        print_once(
            f"{root}: the content of {len(unknown)} of {len(listing.paths)} videos is not known "
            f"({first_few(listing.paths[index] for index in unknown)}): no --held-out-contents holds them out"
        )


def _named(root: Path, listing: Listing, names: Sequence[str]) -> np.ndarray:
    """Whether each video is of one of the named contents, bool (N,)."""
    if listing.contents is None:
        raise UserError(
            f"{root}: held_out_contents={list(names)} needs to know contents: give a .csv file with a column `content`,"
            " or --content-pattern REGEX to find them in the paths"
        )
    return of_named_contents(listing, find_contents(names, listing.content_names, str(root)))


def _of_classes(root: Path, listing: Listing, classes: Sequence[str], may_lack: bool) -> Listing:
    """The videos of some classes, which become the only ones of the listing.

    Raises:
        UserError: if a class is not there, unless the listing `may_lack` some.
    """
    if listing.labels is None:
        raise UserError(
            f"{root}: classes={list(classes)}, but the videos have no labels. Put them into one sub-folder per class, "
            "or give a .csv file with a column `label`"
        )
    there = set(map(composed, listing.class_names))
    wanted = [name for name in classes if composed(name) in there] if may_lack else classes
    places = find_classes(wanted, listing.class_names, str(root))
    new_labels = np.full(len(listing.class_names), -1, dtype=np.int32)
    new_labels[places] = np.arange(len(places))
    chosen = listing.select(new_labels[listing.labels] >= 0)
    class_names = tuple(listing.class_names[place] for place in places)
    return replace(chosen, labels=new_labels[chosen.labels], class_names=class_names)


def _with_class_names(root: Path, listing: Listing, classes: Sequence[str]) -> Listing:
    """The listing with labels as indices into `classes`.

    Raises:
        UserError: if a class of the listing is not among them; the message names it.
    """
    unknown = [name for name in listing.class_names if name not in set(classes)]
    known = f"the classes {first_few(map(repr, classes), 10)}" if classes else "no labels"
    if unknown:
        raise UserError(
            f"{root}: held-out videos are of class {first_few(map(repr, unknown), 10)}, but the training videos have "
            f"{known}. Classes are matched by name: rename these, or leave their videos out"
        )
    if classes and listing.labels is None:
        raise UserError(
            f"{root}: the held-out videos have no labels, but the training videos have {known}. Put them into one "
            "sub-folder per class, or give a .csv file with a column `label`"
        )
    if not classes:
        return listing
    places = {name: place for place, name in enumerate(classes)}
    place_of = np.array([places[name] for name in listing.class_names], dtype=np.int32)
    return replace(listing, labels=place_of[listing.labels], class_names=tuple(classes))


def _held_out(listing: Listing, share: float) -> np.ndarray:
    """Whether each video is held out by the hash of its content or path, bool (N,)."""
    paths, contents = listing.paths, listing.contents
    if share in (0, 1):
        return np.full(len(paths), share == 1)
    if contents is None:
        draws = np.fromiter((_draw(path) for path in paths), dtype=np.float64, count=len(paths))
    else:
        draws = np.array([*(_draw("content", name) for name in listing.content_names), math.nan])[contents]
        for place in np.flatnonzero(contents < 0).tolist():
            draws[place] = _draw(paths[place])
    if draws.min() < draws.max():
        # Moving the share, not single videos, keeps all windows of a file together.
        share = min(max(share, np.nextafter(draws.min(), 1)), draws.max())
    return draws < share


def _draw(*keys: str) -> float:
    """A number in [0, 1) for a path or a content, also for one that is no UTF-8."""
    return derive_seed("held out", *(os.fsencode(key).decode(errors="backslashreplace") for key in keys)) / 2**63
