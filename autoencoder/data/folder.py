"""Videos in a folder tree or a CSV manifest, as a data set of clips."""

import csv
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from autoencoder.data.video_io import ClipReader, UnreadableVideo
from autoencoder.seeding import derive_seed

VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
MANIFEST_COLUMNS = ("path", "label", "start", "end")


class VideoFiles:
    """Clips of listed video files, as `autoencoder.data.ClipDataset` says.

    The list is kept in arrays, not in Python objects: a million videos stay cheap, and forked workers share them.

    Args:
        root: folder that the paths are relative to.
        paths: one per video.
        reader: how clips are read.
        labels: one index into `class_names` per video; None when unlabelled.
        class_names: their names.
        windows: float (N, 2) seconds from `start` to `end`, inside which clips of the video lie; None for all of it.
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
        flip_invariant: bool = True,
    ):
        self.root, self.reader = root, reader
        self.class_names, self.flip_invariant = tuple(class_names), flip_invariant
        self._paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
        self._labels = np.full(len(paths), -1) if labels is None else np.asarray(labels, dtype=np.int64)
        self._windows = np.tile([0.0, math.inf], (len(paths), 1)) if windows is None else windows

    def __len__(self) -> int:
        return len(self._paths)

    def label(self, index: int) -> int:
        """Index into `class_names`; -1 when unlabelled."""
        return int(self._labels[index])

    def source(self, index: int) -> str:
        """Path of the video."""
        return str(self.root / os.fsdecode(self._paths[index]))

    def clip(self, index: int, rng: np.random.Generator | None = None) -> torch.Tensor:
        """One clip of video `index`.

        Args:
            index: of the video.
            rng: draws the start and the random crop; None takes the middle of the video and the centre.

        Returns:
            uint8 (T, H, W, 3).

        Raises:
            UnreadableVideo: if the file is unreadable, damaged where the clip lies, or too short.
        """
        start, end = self._windows[index]
        return self.reader.read(self.source(index), rng, start=float(start), end=float(end))

    def too_short(self) -> list[str]:
        """Paths of the videos too short for one clip, by their headers alone; unreadable headers are not counted."""
        return [self.source(index) for index in range(len(self)) if self._is_too_short(index)]

    def _is_too_short(self, index: int) -> bool:
        start, end = self._windows[index]
        try:
            return self.reader.is_too_short(self.source(index), float(start), float(end))
        except UnreadableVideo:
            return False


class VideoFolder(VideoFiles):
    """Videos of a folder tree or of a CSV manifest, split into training and held-out videos.

    In a tree, the first-level sub-folders are the classes if every video lies in one; otherwise the videos are
    unlabelled. A manifest has the header `path[,label][,start][,end]`: paths relative to its folder, labels by name,
    seconds, of which either may be empty. Classes are sorted by name. A video is held out by a hash of its path, so
    that adding files moves none from one split to the other; all windows of one file fall into the same split.

    Args:
        root: the folder or the .csv file.
        num_frames: frames of a clip.
        size: height and width of a clip in pixels.
        sample_fps, sampling, crop, decoder: as in `ClipReader`.
        flip_invariant: whether a clip may be mirrored without changing its label.
        split: "train" or "val".
        val_share: share of the videos to hold out, in [0, 1]; strictly between, both splits get at least one video.

    Raises:
        FileNotFoundError: if there is no such folder or manifest, or no video in it.
        ValueError: if an argument or a line of the manifest does not fit, or the split is empty.
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
        flip_invariant: bool = True,
        split: str = "train",
        val_share: float = 0.05,
    ):
        reader = ClipReader(num_frames, size, sample_fps=sample_fps, sampling=sampling, crop=crop, decoder=decoder)
        if split not in ("train", "val"):
            raise ValueError(f"split={split!r} is none of train, val")
        if not 0 <= val_share <= 1:
            raise ValueError(f"val_share={val_share}: must be in [0, 1]")
        root = Path(root)
        is_manifest = root.suffix.lower() == ".csv"
        if not (root.is_file() if is_manifest else root.is_dir()):
            raise FileNotFoundError(_nothing_there(root, "there is no such " + ("file" if is_manifest else "folder")))
        paths, names, windows = _read_manifest(root) if is_manifest else _scan(root)
        if not paths:
            raise FileNotFoundError(_nothing_there(root, "it lists no video" if is_manifest else "it holds no video"))

        chosen = np.flatnonzero(_held_out(paths, val_share) == (split == "val"))
        if not len(chosen):
            raise ValueError(f"{root}: no video falls into split={split!r} with val_share={val_share} of {len(paths)}")
        class_names = sorted(set(names)) if names else []
        class_of = {name: index for index, name in enumerate(class_names)}
        super().__init__(
            root.parent if is_manifest else root,
            [paths[i] for i in chosen],
            reader,
            labels=[class_of[names[i]] for i in chosen] if names else None,
            class_names=class_names,
            windows=None if windows is None else windows[chosen],
            flip_invariant=flip_invariant,
        )


def _nothing_there(root: Path, problem: str) -> str:
    return (
        f"no videos in {root.absolute()}: {problem}. It must be a folder with {', '.join(VIDEO_ENDINGS)} files, in one "
        "sub-folder per class or without classes, or a .csv file with the header path[,label][,start][,end]. "
        "`--dataset shapes` needs no files."
    )


def _scan(root: Path) -> tuple[list[str], list[str], None]:
    """Paths below `root`, sorted, and their classes; no classes unless every video lies in a sub-folder."""
    paths = sorted(_video_paths(root))
    labelled = all("/" in path for path in paths)
    return paths, [path.split("/", 1)[0] for path in paths] if labelled else [], None


def _video_paths(root: Path) -> Iterator[str]:
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(VIDEO_ENDINGS) and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _held_out(paths: Sequence[str], share: float) -> np.ndarray:
    """Whether each path is held out, bool (N,)."""
    draws = np.array([derive_seed("held out", path) / 2**63 for path in paths])
    if 0 < share < 1 and len(set(draws)) >= 2:
        # Moving the share, not single videos, keeps all windows of a file together.
        share = min(max(share, np.nextafter(draws.min(), 1)), draws.max())
    return draws < share


def _read_manifest(manifest: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Paths, labels (empty without that column) and windows (N, 2) of a manifest."""
    with open(manifest, newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        columns = [name.strip() for name in next(lines, [])]
        if "path" not in columns or len(set(columns)) < len(columns) or not set(columns) <= set(MANIFEST_COLUMNS):
            header = ",".join(columns)
            raise ValueError(f"{manifest}, line 1: the header must be path[,label][,start][,end], got {header!r}")
        paths, labels, windows = [], [], []
        for cells in lines:
            if not any(cells):
                continue
            where = f"{manifest}, line {lines.line_num}"
            if len(cells) != len(columns):
                raise ValueError(f"{where}: {len(cells)} values for the {len(columns)} columns {','.join(columns)}")
            row = dict(zip(columns, (cell.strip() for cell in cells), strict=True))
            for column in {"path", "label"} & row.keys():
                if not row[column]:
                    raise ValueError(f"{where}: no {column} given")
            paths.append(Path(row["path"]).as_posix())
            labels += [row["label"]] if "label" in row else []
            windows.append(_window(row.get("start", ""), row.get("end", ""), where))
    return paths, labels, np.array(windows, dtype=np.float64).reshape(-1, 2)


def _window(start: str, end: str, where: str) -> tuple[float, float]:
    try:
        window = float(start or 0), float(end or math.inf)
    except ValueError as error:
        raise ValueError(f"{where}: start={start!r} and end={end!r} must be seconds or empty") from error
    if not 0 <= window[0] < window[1]:
        raise ValueError(f"{where}: start={start!r} and end={end!r} must be 0 <= start < end, in seconds")
    return window
