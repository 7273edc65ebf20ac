"""Scanning a folder tree for videos: each real file once, with a report of what is left out."""

import os
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoencoder.common.errors import first_few
from autoencoder.data.listing import VIDEO_ENDINGS, Listing, PathTable, sorted_classes
from autoencoder.data.remarks import print_once


@dataclass
class Scan:
    """The contents of a folder tree.

    Attributes:
        videos: paths relative to the folder, in the order of the walk: by name, folder by folder.
        other: files without the ending of a video.
        hidden: videos and folders whose names begin with a dot.
        repeated: paths of files, or of folders, that were listed by another path before.
        folders: folders of the first level.
    """

    videos: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


def scan_folder(root: Path) -> Listing:
    """Videos below `root`, sorted; their first-level folders are the classes if every video lies in one.

    Links are followed, and every real file is listed once, by the path that comes first when folders are walked by
    name; that path gives the label. Hard links are the same file. The first process prints once what is left out. An
    empty folder named like a video is listed too, so that reading it reports the missing file.
    """
    scan = Scan()
    known = {_identity(folder) for folder in (root.resolve(), *root.resolve().parents)}
    _walk(root, "", scan, known)
    for remark in _remarks(scan):
        print_once(f"{root}: {remark}")
    paths = sorted(scan.videos)
    if not all("/" in path for path in paths):
        return Listing(PathTable(paths), None, (), None)
    places: dict[str, int] = {}
    labels = array("i", (places.setdefault(path.split("/", 1)[0], len(places)) for path in paths))
    return Listing(PathTable(paths), *sorted_classes(labels, places), None)


def _identity(path: str | Path) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_dev, state.st_ino


def _is_video(name: str) -> bool:
    return name.lower().endswith(VIDEO_ENDINGS)


def _walk(folder: str | Path, prefix: str, scan: Scan, known: set[tuple[int, int]]) -> None:
    """Note what a folder holds; `known` are the folders and videos that were met."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    if not entries and prefix and _is_video(os.path.basename(folder)):
        scan.videos.append(prefix.removesuffix("/"))
    for entry in entries:
        path, is_folder = prefix + entry.name, entry.is_dir()
        if entry.name.startswith("."):
            scan.hidden += [path] if is_folder or _is_video(entry.name) else []
        elif not is_folder and not _is_video(entry.name):
            scan.other.append(path)
        elif _is_known(entry, known):
            scan.repeated.append(path)
        elif is_folder:
            scan.folders += [path] if not prefix else []
            _walk(entry.path, path + "/", scan, known)
        else:
            scan.videos.append(path)


def _is_known(entry: os.DirEntry, known: set[tuple[int, int]]) -> bool:
    try:
        identity = _identity(entry.path)
    except OSError:  # a link to nothing, which reading will name
        return False
    is_known = identity in known
    known.add(identity)
    return is_known


def _remarks(scan: Scan) -> Iterator[str]:
    """Which contents of a folder are left out or ambiguous."""
    beside = [path for path in scan.videos if "/" not in path]
    in_folders = {path.split("/", 1)[0] for path in scan.videos if "/" in path}
    if beside and in_folders:
        yield (
            f"no video has a label, for {_some(beside, 'videos')} beside the {len(in_folders)} folders: "
            "where all lie in folders, these are the classes"
        )
    if scan.other:
        yield f"left out {_some(scan.other, 'files')}: videos end in {', '.join(VIDEO_ENDINGS)}"
    if scan.hidden:
        yield f"left out {_some(scan.hidden, 'hidden files or folders')}"
    if scan.repeated:
        yield f"left out {_some(scan.repeated, 'repeated files or folders')}: they are listed by another path"
    empty = [name for name in scan.folders if name not in in_folders and name not in scan.videos]
    if empty and in_folders:
        yield f"{_some(empty, 'folders')} without a video, which make no class"


def _some(names: Sequence[str], plural: str) -> str:
    """Their number and the first of them."""
    noun = re.sub(r"s\b", "", plural) if len(names) == 1 else plural
    return f"{len(names)} {noun} ({first_few(names)})"
