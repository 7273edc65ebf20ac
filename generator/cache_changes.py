"""Comparing an existing latent cache with the data set: it is used, continued, extended, made anew or refused."""

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from autoencoder.common.errors import UserError, first_few
from autoencoder.common.seeding import derive_seed
from autoencoder.data import ClipDataset
from autoencoder.data.folder import VideoFiles
from autoencoder.data.listing import Listing, PathTable
from autoencoder.vidtwin import AutoencoderVidTwin
from generator.cache_identity import (
    REMEDY,
    VIDEOS,
    VideoTable,
    are_replaced,
    check_identity,
    file_states,
    open_file,
    read_metadata,
)
from generator.cache_reader import INDEX, read_index
from generator.config import CacheConfig

SHARDS = "shard-*.safetensors"


def build_clips(config: CacheConfig, model: AutoencoderVidTwin) -> ClipDataset:
    """The data set of a cache, in clips that the model takes."""
    return config.build(config.split, model.config.num_frames, model.config.sample_size)


def chosen_videos(config: CacheConfig, ends: tuple[int, ...]) -> list[np.ndarray]:
    """Numbers of the videos that a cache encodes, in order: those it began with, then those of each later addition.

    Args:
        config: the cache's config; its `max_videos` and `clip_seed` choose among the first.
        ends: as in `VideoTable`.
    """
    order = np.random.default_rng(derive_seed(config.clip_seed, "videos")).permutation(ends[0])
    return [np.sort(order[: config.max_videos]), *(np.arange(first, end) for first, end in pairwise(ends))]


def noted_listing(config: CacheConfig, clips: VideoFiles) -> Listing:
    """What a cache notes of its videos: all but contents, and these as well where structure is read from companions."""
    listing = clips.listing
    if not config.companions:
        return replace(listing, contents=None, content_names=())
    if listing.contents is None:
        return replace(listing, contents=np.full(len(listing.paths), -1, dtype=np.int32))
    # Numbered anew, so that the videos of the other split do not matter.
    numbers, contents = np.unique(np.append(listing.contents, -1), return_inverse=True)
    names = PathTable(listing.content_names[number] for number in numbers[1:].tolist())
    return replace(listing, contents=(contents[:-1] - 1).astype(np.int32), content_names=names)


def is_current(folder: Path, identity: dict[str, Any], config: CacheConfig, model: AutoencoderVidTwin) -> bool:
    """Whether a folder holds a complete cache of the autoencoder, settings and videos there are now; writes nothing.

    Raises:
        UserError: if it holds a cache that differs in more than videos that were added.
    """
    if not (folder / INDEX).is_file():
        return False
    if config.reads_videos and not (folder / VIDEOS).is_file():
        raise _of_earlier_version(folder)
    stored = read_index(folder)["identity"]
    check_identity(folder, stored, {name: value for name, value in identity.items() if name != "shard_size"})
    if config.dataset != "shapes" and not config.root.exists():
        print(f"{config.root} is not there: the latents in {folder} are taken without a look at their videos")
        return True
    if not config.reads_videos:
        return True
    table, before = _compare(folder, stored, config, build_clips(config, model))
    return table is before


def update_table(folder: Path, identity: dict[str, Any], config: CacheConfig, clips: ClipDataset) -> tuple[int, ...]:
    """Update the list of videos of a cache, or write the first one; only the process that holds the folder may call it.

    If videos or classes were added, the index is removed, so the cache is incomplete until they are encoded.

    Returns:
        `VideoTable.ends`.

    Raises:
        UserError: if the folder holds a cache that differs in more than videos that were added.
    """
    if not isinstance(clips, VideoFiles):
        return (len(clips),)
    table, before = _compare(folder, identity, config, clips)
    if table is before:
        return table.ends
    added = 0 if before is None else len(table.numbers) - len(before.numbers)
    if added and config.max_videos is not None and config.max_videos < len(table.numbers):
        print(f"{folder}: {added} videos were added; max_videos={config.max_videos} are chosen anew and encoded")
        remove_cache(folder)
        table = _begin(config, clips)
    elif before is not None and table.listing is not before.listing:
        print(f"{folder}: {added} videos were added; they are encoded, and the others kept")
        (folder / INDEX).unlink(missing_ok=True)
    table.save(folder, identity)
    return table.ends


def remove_cache(folder: Path) -> None:
    """Remove the files of a cache, its index first, so that no incomplete cache ever looks complete."""
    for path in [folder / INDEX, *folder.glob(SHARDS), folder / VIDEOS]:
        path.unlink(missing_ok=True)


def _compare(
    folder: Path, identity: dict[str, Any], config: CacheConfig, clips: VideoFiles
) -> tuple[VideoTable, VideoTable | None]:
    """The new list of videos and the stored one; the same object if nothing has changed."""
    loaded = VideoTable.load(folder)
    if loaded is None:
        if any(folder.glob(SHARDS)) or (folder / INDEX).is_file():
            raise _of_earlier_version(folder)
        return _begin(config, clips), None
    before, stored = loaded
    check_identity(folder, stored, identity)
    table, differences = before.follow(noted_listing(config, clips))
    table, replaced = _refresh_states(folder, table, _encoded(table, chosen_videos(config, before.ends)), clips)
    if replaced.size:
        names = first_few((table.listing.paths[place] for place in replaced), separator="; ")
        differences.append(f"{len(replaced)} replaced ({names})")
    if differences:
        added = int((table.numbers >= before.ends[-1]).sum())
        differences += [f"{added} added"] * bool(added)
        raise UserError(f"{folder} was made from other videos: {', '.join(differences)}. {REMEDY}")
    new = np.flatnonzero(table.numbers >= before.ends[-1])
    return (table.with_states(new, _states(clips, new)) if new.size else table), before


def _begin(config: CacheConfig, clips: VideoFiles) -> VideoTable:
    table = VideoTable.of(noted_listing(config, clips))
    places = np.concatenate(chosen_videos(config, table.ends))
    return table.with_states(places, _states(clips, places))


def _states(clips: VideoFiles, places: np.ndarray) -> np.ndarray:
    return file_states(_paths(clips, places))


def _paths(clips: VideoFiles, places: np.ndarray) -> list[str]:
    """`source` of many videos, without the cost of a `Path` for each."""
    paths = clips.listing.paths
    return [os.path.join(clips.root, paths[place]) for place in places.tolist()]


def _encoded(table: VideoTable, chosen: list[np.ndarray]) -> np.ndarray:
    """Places of the videos that the cache chose to encode before some were added."""
    is_chosen = np.zeros(int(table.numbers.max()) + 1, dtype=bool)
    numbers = np.concatenate(chosen)
    is_chosen[numbers[numbers < len(is_chosen)]] = True
    return np.flatnonzero(is_chosen[table.numbers])


def _refresh_states(
    folder: Path, table: VideoTable, places: np.ndarray, clips: VideoFiles
) -> tuple[VideoTable, np.ndarray]:
    """The table with the current states of the files, and the places of files whose contents were replaced."""
    states = _states(clips, places)
    has_changed = (states != table.states[places]).any(axis=1)
    if not has_changed.any():
        return table, places[:0]
    touched = places[has_changed]
    digests = _read_digests(folder)
    encoded = np.array([place for place in touched.tolist() if int(table.numbers[place]) in digests], dtype=np.int64)
    known = [digests[number] for number in table.numbers[encoded].tolist()]
    replaced = encoded[are_replaced(_paths(clips, encoded), known)]
    return table.with_states(touched, states[has_changed]), replaced


def _read_digests(folder: Path) -> dict[int, str]:
    """Digests of the encoded files by the numbers of their videos."""
    digests: dict[int, str] = {}
    for path in sorted(folder.glob(SHARDS)):
        with open_file(path, "np") as shard:
            stored = read_metadata(path, shard)["digests"]
        digests |= {int(number): digest for number, digest in stored.items()}
    return digests


def _of_earlier_version(folder: Path) -> UserError:
    return UserError(
        f"{folder} holds latents of an earlier version, which did not note of which videos they are. {REMEDY}"
    )
