"""Lists of videos, kept in arrays, and the CSV manifest.

A list of a million Python strings takes over 100 MB, and every worker process that reads it ends up with its own copy,
because reading changes reference counts. Arrays of plain bytes stay shared.
"""

import csv
import math
import os
import re
from array import array
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autoencoder.common.errors import UserError

VIDEO_ENDINGS = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".gif", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv"),
    *(".mpg", ".mpeg", ".m2v", ".ts", ".mts", ".m2ts", ".vob", ".mxf", ".y4m", ".nut"),
)
MANIFEST_COLUMNS = ("path", "label", "start", "end", "content")
MANIFEST_HEADER = "path" + "".join(f"[,{column}]" for column in MANIFEST_COLUMNS[1:])
# What `Path` changes in a path; asking first makes a long manifest start in half the time.
UNTIDY = re.compile(r"//|/$|\\|(^|/)\.(/|$)")


class PathTable(Sequence[str]):
    """An immutable sequence of paths, or of words, in two buffers: 8 bytes per path beside its text.

    Args:
        paths: taken one by one, so that a generator need never hold them all.
    """

    def __init__(self, paths: Iterable[str] = ()):
        text, bounds = bytearray(), array("q", [0])
        for path in paths:
            text += os.fsencode(path)
            bounds.append(len(text))
        self._text, self._bounds = np.array(text, dtype=np.uint8), np.array(bounds, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]
        return os.fsdecode(self._text[self._bounds[index] : self._bounds[index + 1]].tobytes())

    @property
    def buffers(self) -> tuple[np.ndarray, np.ndarray]:
        """The paths one behind the other, as bytes, and int64 (N + 1,) where each begins and the last one ends."""
        return self._text, self._bounds

    @classmethod
    def from_buffers(cls, text: np.ndarray, bounds: np.ndarray) -> "PathTable":
        """The table that has these `buffers`."""
        table = cls()
        table._text, table._bounds = text, bounds
        return table

    def select(self, mask: np.ndarray) -> "PathTable":
        """The paths where `mask`, bool (N,), is true."""
        lengths = np.diff(self._bounds)
        bounds = np.concatenate([[0], np.cumsum(lengths[mask])])
        return PathTable.from_buffers(self._text[np.repeat(mask, lengths)], bounds)


@dataclass(frozen=True)
class Listing:
    """Videos and what is known of each.

    Attributes:
        paths: relative to the folder, or to that of the manifest; parts are joined by "/".
        labels: int32 (N,) indices into `class_names`; None when unlabelled.
        class_names: sorted.
        windows: float64 (N, 2) first and last second of clips, 0 and infinity where not given; None where none is.
        contents: int32 (N,) indices into `content_names`, equal for videos of the same content and -1 where it is not
            known; None where none is.
        content_names: the word of every content.
    """

    paths: PathTable
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    windows: np.ndarray | None
    contents: np.ndarray | None = None
    content_names: Sequence[str] = ()

    def select(self, mask: np.ndarray) -> "Listing":
        """The videos where `mask`, bool (N,), is true; the classes and the names of contents stay those of all."""
        if mask.all():
            return self
        columns = {"labels": self.labels, "windows": self.windows, "contents": self.contents}
        chosen = {name: None if column is None else column[mask] for name, column in columns.items()}
        return replace(self, paths=self.paths.select(mask), **chosen)


class ContentColumn:
    """Collects the contents of videos one by one: a number per video, a word per content."""

    def __init__(self):
        self._column, self._numbers = array("i"), {"": -1}

    def append(self, word: str | None) -> None:
        """Add the content of the next video; without a word it is not known."""
        self._column.append(self._numbers.setdefault(word or "", len(self._numbers) - 1))

    @property
    def columns(self) -> tuple[np.ndarray, PathTable]:
        """`contents` and `content_names` of a `Listing`; contents are numbered in the order of their appearance."""
        return np.array(self._column, dtype=np.int32), PathTable(word for word in self._numbers if word)


def sorted_classes(labels: array, known: dict[str, int]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Renumber labels from the classes' order of appearance to their sorted order.

    Args:
        labels: one per video, in order of appearance.
        known: number of every class name in order of appearance.

    Returns:
        int32 (N,) labels, and the sorted class names.
    """
    class_names = sorted(known)
    rank = np.empty(len(known), dtype=np.int32)
    rank[[known[name] for name in class_names]] = np.arange(len(known))
    return rank[np.array(labels)], tuple(class_names)


def refuse_utf16(path: Path) -> None:
    """Refuse a list that was saved as UTF-16.

    Raises:
        UserError: naming the file.
    """
    with open(path, "rb") as file:
        if file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE):
            raise UserError(f"{path} is UTF-16 text, as some programs of Windows save it: save it as UTF-8")


def read_manifest(manifest: Path) -> Listing:
    """Videos listed in a CSV file; whether they exist is not checked.

    Raises:
        UserError: naming the first line that does not fit.
    """
    refuse_utf16(manifest)
    # Bytes that are no UTF-8 are kept, as they are in names of files.
    with open(manifest, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = csv.reader(file)
        try:
            return _read_lines(lines)
        except (ValueError, csv.Error) as error:
            raise UserError(f"{manifest}, line {max(1, lines.line_num)}: {error}") from error


def _read_lines(lines: Iterator[list[str]]) -> Listing:
    columns = [name.strip() for name in next(lines, [])]
    if "path" not in columns or len(set(columns)) < len(columns) or not set(columns) <= set(MANIFEST_COLUMNS):
        raise UserError(f"the header must be {MANIFEST_HEADER}, got {','.join(columns)!r}")
    path_at, label_at, start_at, end_at, content_at = (
        columns.index(column) if column in columns else None for column in MANIFEST_COLUMNS
    )
    has_windows = start_at is not None or end_at is not None
    labels, known, bounds = array("i"), {}, array("d")
    contents = ContentColumn()

    def paths() -> Iterator[str]:
        for cells in filter(any, lines):
            if len(cells) != len(columns):
                raise UserError(f"{len(cells)} values for the {len(columns)} columns {','.join(columns)}")
            if label_at is not None:
                label = _given("label", cells[label_at])
                labels.append(known.setdefault(label, len(known)))
            if has_windows:
                bounds.extend(_window(*("" if at is None else cells[at].strip() for at in (start_at, end_at))))
            if content_at is not None:
                contents.append(cells[content_at].strip())
            path = _given("path", cells[path_at])
            yield Path(path).as_posix() if UNTIDY.search(path) else path

    table = PathTable(paths())
    windows = np.array(bounds).reshape(-1, 2) if has_windows else None
    class_columns = (None, ()) if label_at is None else sorted_classes(labels, known)
    content_columns = (None, ()) if content_at is None else contents.columns
    return Listing(table, *class_columns, windows, *content_columns)


def _given(column: str, cell: str) -> str:
    if not (value := cell.strip()):
        raise UserError(f"no {column} given")
    if "\0" in value:
        raise UserError(f"the {column} {value!r} holds a NUL character, which no file's name can")
    return value


def _window(start: str, end: str) -> tuple[float, float]:
    try:
        window = float(start or 0), float(end or math.inf)
    except ValueError as error:
        raise UserError(f"start={start!r} and end={end!r} must be seconds or empty") from error
    if not 0 <= window[0] < window[1]:
        raise UserError(f"start={start!r} and end={end!r} must be 0 <= start < end, in seconds")
    return window
