"""The identity of a latent cache: autoencoder, settings and videos, and the comparison with another one.

A cache of video files keeps the list of its videos beside its shards, with size and modification time of each encoded
file; a shard keeps a digest of each of its files. So an existing cache is compared without opening a video: the lists
first, then sizes and times, and digests only of files whose size or time has changed.

Every video has a number: its place in the list that the cache began with; videos added later get the next numbers.
"""

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from autoencoder.common.errors import UserError, first_few
from autoencoder.common.files import save_safetensors
from autoencoder.data.listing import Listing, PathTable
from autoencoder.data.sprite_sources import source_files
from generator.config import CacheConfig

VIDEOS = "videos.safetensors"
METADATA_KEY = "latent_cache"  # key of the metadata of the list and of the shards
# Settings that caches of earlier versions do not note, which had no other values.
UNNOTED = {"companions": False, "classes": None, "held_out_contents": None, "content_pattern": None}
REMEDY = "Give another folder, remove that one, or have it encoded anew by --rebuild-cache"

BLOCK_BYTES, BLOCKS = 2**20, 16  # the parts of a large file that its digest covers; smaller files are read whole
THREADS = 16  # for `os.stat`, which is slow on network drives
PER_TASK = 1000  # files that a thread takes at a time


def check_identity(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Compare the stored identity of a cache or shard with the wanted one.

    Args:
        path: path of the cache or shard, for the message.
        found: the stored values by name.
        wanted: the wanted ones; other names in `found` are ignored.

    Raises:
        UserError: if values differ; the message names all of them.
    """
    found = UNNOTED | found
    different = [name for name in wanted if found.get(name) != wanted[name]]
    if different:
        names = ", ".join(f"{name}={found.get(name)!r} there and {wanted[name]!r} here" for name in different)
        raise UserError(f"{path} was made from something else: {names}. {REMEDY}")


def source_identity(config: CacheConfig) -> dict[str, Any]:
    """What the clips of sprites are made from: a digest of their file, or of all sheets.

    It is empty for other data sets, and where the data are gone, so that a complete cache can be read without them.

    Raises:
        MissingFileError: if the folder is there without sprites in it.
    """
    if config.dataset != "sprites" or not config.root.exists():
        return {}
    digests = "".join(file_digest(path) for path in source_files(config.root))
    return {"sprites": hashlib.blake2b(digests.encode(), digest_size=16).hexdigest()}


def file_digest(path: str | Path) -> str:
    """BLAKE2b digest of a file's contents in hexadecimal; "" if it is not a readable file.

    For a large file it covers its size and evenly spread blocks from the beginning to the end.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its other end
            return ""
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(str(size).encode(), digest_size=16)
            if size <= BLOCKS * BLOCK_BYTES:
                digest.update(file.read())
            else:
                for number in range(BLOCKS):
                    file.seek((size - BLOCK_BYTES) * number // (BLOCKS - 1))
                    digest.update(file.read(BLOCK_BYTES))
    except (OSError, ValueError):  # a path with a NUL is a ValueError
        return ""
    return digest.hexdigest()


def file_states(paths: Sequence[str]) -> np.ndarray:
    """Size in bytes and modification time in ns of every file, int64 (N, 2); -1 for a missing file."""

    def states(chunk: Sequence[str]) -> list[tuple[int, int]]:
        found = []
        for path in chunk:
            try:
                status = os.stat(path)
                found.append((status.st_size, status.st_mtime_ns))
            except (OSError, ValueError):
                found.append((-1, -1))
        return found

    with ThreadPoolExecutor(THREADS) as pool:
        parts = pool.map(states, (paths[start : start + PER_TASK] for start in range(0, len(paths), PER_TASK)))
        return np.array(list(chain.from_iterable(parts)), dtype=np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class VideoTable:
    """The videos of a cache.

    Attributes:
        listing: the videos in the order of the data set.
        numbers: int64 (N,) number of every video.
        ends: how many videos there were when the cache began, and after each time that some were added.
        states: int64 (N, 2), `file_states` of those that are encoded.
    """

    listing: Listing
    numbers: np.ndarray
    ends: tuple[int, ...]
    states: np.ndarray

    @classmethod
    def of(cls, listing: Listing) -> "VideoTable":
        """The table of a new cache."""
        count = len(listing.paths)
        return cls(listing, np.arange(count), (count,), np.full((count, 2), -1))

    @property
    def places(self) -> np.ndarray:
        """Place in the list by number, int64 (N,)."""
        return np.argsort(self.numbers)

    def save(self, folder: Path, identity: dict[str, Any]) -> None:
        """Write the table, atomically."""
        text, bounds = self.listing.paths.buffers
        columns = {"text": text, "bounds": bounds, "numbers": self.numbers, "states": self.states}
        optional = {name: getattr(self.listing, name) for name in ("labels", "windows", "contents")}
        if self.listing.contents is not None:
            names_text, names_bounds = PathTable(self.listing.content_names).buffers
            optional |= {"content_text": names_text, "content_bounds": names_bounds}
        columns |= {name: column for name, column in optional.items() if column is not None}
        metadata = {"identity": identity, "class_names": self.listing.class_names, "ends": self.ends}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()}
        save_safetensors(tensors, folder / VIDEOS, {METADATA_KEY: json.dumps(metadata)})

    @classmethod
    def load(cls, folder: Path) -> tuple["VideoTable", dict[str, Any]] | None:
        """The table of a cache, and the cache's identity; None if the folder holds no table."""
        if not (folder / VIDEOS).is_file():
            return None
        with open_file(folder / VIDEOS, "np") as file:
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = read_metadata(folder / VIDEOS, file)
        listing = Listing(
            PathTable.from_buffers(columns["text"], columns["bounds"]),
            columns.get("labels"),
            tuple(metadata["class_names"]),
            columns.get("windows"),
            columns.get("contents"),
            PathTable.from_buffers(columns["content_text"], columns["content_bounds"]) if "contents" in columns else (),
        )
        return cls(listing, columns["numbers"], tuple(metadata["ends"]), columns["states"]), metadata["identity"]

    @staticmethod
    def read_labels(folder: Path) -> torch.Tensor | None:
        """Class ids by number, long (N,), 0 where nothing is labelled; None where a cache has no table."""
        if not (folder / VIDEOS).is_file():
            return None
        with open_file(folder / VIDEOS, "pt") as file:
            numbers = file.get_tensor("numbers")
            labels = torch.zeros_like(numbers)
            if "labels" in file.keys():  # noqa: SIM118
                labels[numbers] = file.get_tensor("labels").long()
        return labels

    def follow(self, listing: Listing) -> tuple["VideoTable", list[str]]:
        """The table of the current videos with additions, and all other differences in words.

        Args:
            listing: the current videos.
        """
        if same_videos(self.listing, listing):
            return self, []
        before, after = (_places(videos) for videos in (self.listing, listing))
        origin = np.array([before.get(key, -1) for key in after])
        differences = _differences(self.listing, listing, before, after, origin)
        is_new, total = origin < 0, len(self.numbers)
        numbers, states = np.where(is_new, 0, self.numbers[origin]), self.states[origin]
        numbers[is_new] = total + np.arange(is_new.sum())
        states[is_new] = -1
        ends = (*self.ends, total + int(is_new.sum())) if is_new.any() else self.ends
        return VideoTable(listing, numbers, ends, states), differences

    def with_states(self, places: np.ndarray, states: np.ndarray) -> "VideoTable":
        """The table with new states at some places."""
        changed = self.states.copy()
        changed[places] = states
        return replace(self, states=changed)


def open_file(path: Path, framework: str) -> safe_open:
    """Open a file of a cache for tensors of a framework, "pt" or "np".

    Raises:
        UserError: if it is damaged.
    """
    try:
        return safe_open(path, framework)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}). {REMEDY}") from error


def read_metadata(path: Path, file: safe_open) -> dict[str, Any]:
    """The metadata of a cache's file.

    Raises:
        UserError: if it is not a file of a cache.
    """
    if METADATA_KEY not in (metadata := file.metadata() or {}):
        raise UserError(
            f"{path} is no shard of a latent cache: its metadata lack {METADATA_KEY!r}; give another folder"
        )
    return json.loads(metadata[METADATA_KEY])


def same_videos(one: Listing, other: Listing) -> bool:
    """Whether two lists hold the same videos in the same order, with the same classes, windows and contents.

    Contents are compared where both lists have noted any.
    """
    pairs = [(one.labels, other.labels), (one.windows, other.windows)]
    pairs += zip(one.paths.buffers, other.paths.buffers, strict=True)
    if one.contents is not None and other.contents is not None:
        if list(one.content_names) != list(other.content_names):
            return False
        pairs.append((one.contents, other.contents))
    return one.class_names == other.class_names and all(
        left is right or (left is not None and right is not None and np.array_equal(left, right))
        for left, right in pairs
    )


Key = tuple[str, tuple[float, float], int]  # path, window, and the number of equal entries before it


def _places(listing: Listing) -> dict[Key, int]:
    windows = [(0.0, float("inf"))] * len(listing.paths) if listing.windows is None else listing.windows.tolist()
    seen, places = Counter(), {}
    for place, (path, window) in enumerate(zip(listing.paths, map(tuple, windows), strict=True)):
        places[path, window, seen[path, window]] = place
        seen[path, window] += 1
    return places


def _class_of(listing: Listing, place: int) -> str | None:
    return None if listing.labels is None else listing.class_names[listing.labels[place]]


def _content_of(listing: Listing, place: int) -> str:
    content = listing.contents[place]
    return listing.content_names[content] if content >= 0 else ""


def _differences(
    old: Listing, new: Listing, before: dict[Key, int], after: dict[Key, int], origin: np.ndarray
) -> list[str]:
    """All differences that are not additions, in words."""
    gone = [key[0] for key in before if key not in after]
    added = {key[0] for key in after if key not in before}
    relabelled = [
        (key[0], _class_of(old, origin[place]), _class_of(new, place))
        for key, place in after.items()
        if origin[place] >= 0 and _class_of(old, origin[place]) != _class_of(new, place)
    ]
    regrouped = [
        (key[0], _content_of(old, origin[place]), _content_of(new, place))
        for key, place in (after.items() if old.contents is not None and new.contents is not None else ())
        if origin[place] >= 0 and _content_of(old, origin[place]) != _content_of(new, place)
    ]
    groups = {
        "removed": [path for path in gone if path not in added],
        "with another start or end": [path for path in gone if path in added],
        "of another class": [f"{path}, {there!r} there and {here!r} here" for path, there, here in relabelled],
        "of another content": [f"{path}, {there!r} there and {here!r} here" for path, there, here in regrouped],
    }
    found = [f"{len(names)} {what} ({first_few(names, separator='; ')})" for what, names in groups.items() if names]
    lost = [name for name in old.class_names if name not in new.class_names]
    return found + ([f"no class {first_few(map(repr, lost), 10)} any more"] if lost else [])


def are_replaced(paths: Sequence[str], digests: Sequence[str]) -> np.ndarray:
    """Whether the digest of each file differs from the given one, bool (N,)."""
    with ThreadPoolExecutor(THREADS) as pool:
        return np.array(
            [now != before for now, before in zip(pool.map(file_digest, paths), digests, strict=True)], bool
        )
