"""Checking that an unpacked UCF-101 is complete: all classes, videos and lists, and files that open."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from torch.utils.data import DataLoader, Dataset

from autoencoder.common.errors import first_few
from autoencoder.common.progress import progress_bar
from autoencoder.common.signals import leave_signals_to_the_parent
from autoencoder.data.frame_index import UnreadableVideo, index_frames
from autoencoder.data.ucf101.dataset import avi_files, find_lists, read_classes, read_split, videos_folder
from autoencoder.data.video_io import DECODERS


@dataclass(frozen=True)
class Counts:
    """Expected numbers of videos and classes.

    Attributes:
        videos, classes: numbers of the whole archive.
        train, test: videos of the two lists of split 1.
    """

    videos: int
    classes: int
    train: int
    test: int


COMPLETE = Counts(videos=13_320, classes=101, train=9_537, test=3_783)


def check(root: str | Path, counts: Counts = COMPLETE, *, quick: bool = False, num_workers: int = 0) -> list[str]:
    """What is wrong with an unpacked UCF-101.

    Args:
        root: as for `UCF101`.
        counts: expected numbers, those of the complete data set.
        quick: check names only, open no video.
        num_workers: processes that open videos; 0 opens them in this one.

    Returns:
        A sentence per problem; none where everything is there.
    """
    root = Path(root).absolute()
    if not root.is_dir():
        return [f"there is no folder {root}"]
    videos = videos_folder(root)
    on_disk = sorted(avi_files(videos))
    problems = [*_compare("videos", len(on_disk), counts.videos), *_check_lists(root, videos, on_disk, counts)]
    return problems if quick else problems + unreadable([videos / path for path in on_disk], num_workers)


def unreadable(paths: list[Path], num_workers: int = 0) -> list[str]:
    """Reasons of the files that cannot be read, judged by their packets and their first and middle frame."""
    loader = DataLoader(
        _Reasons(paths), batch_size=None, num_workers=num_workers, worker_init_fn=leave_signals_to_the_parent
    )
    return [reason for reason in progress_bar(None, "opening videos", "video", over=loader) if reason]


class _Reasons(Dataset):
    """The reason why a file cannot be read, by index; "" if it can."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> str:
        path = self.paths[index]
        try:
            frames = index_frames(path)
            DECODERS["pyav"](path, frames, np.unique([0, len(frames.times) // 2]))
        except UnreadableVideo as error:
            return str(error)
        except (av.FFmpegError, OSError) as error:
            return f"{path}: {error.strerror or error}"
        return ""


def _check_lists(root: Path, videos: Path, on_disk: Collection[str], counts: Counts) -> list[str]:
    try:
        folder = find_lists(root, videos, ["classInd.txt"])
        classes = read_classes(folder / "classInd.txt")
    except FileNotFoundError:
        return [f"there is no classInd.txt, the list of the classes, in {root / 'ucfTrainTestlist'} or {root}"]
    except ValueError as error:
        return [str(error)]
    ids = {name.lower(): index for index, name in enumerate(classes)}
    present = {path.split("/")[0].lower() for path in on_disk}
    problems = [
        *_compare("classes in classInd.txt", len(classes), counts.classes),
        *_some("classes without a video", [name for name in classes if name.lower() not in present]),
        *_some("folders of videos that are no class", present - set(ids)),
    ]
    splits = {}
    for fold in (1, 2, 3):
        found, split = _read_fold(folder, fold, ids)
        problems += found
        if split is not None:
            splits[fold] = split
    return problems + list(_check_splits(splits, {path.lower() for path in on_disk}, counts))


def _read_fold(folder: Path, fold: int, ids: dict[str, int]) -> tuple[list[str], tuple[list[str], list[str]] | None]:
    """Problems, and the two lists in small letters where they can be read. Only those of split 1 must be there."""
    paths = [folder / f"{part}list{fold:02d}.txt" for part in ("train", "test")]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        return ([] if fold > 1 and len(missing) == 2 else _some(f"lists missing in {folder}", missing)), None
    try:
        train, test = ([video.lower() for video, _ in read_split(path, ids)] for path in paths)
    except ValueError as error:
        return [str(error)], None
    return [], (train, test)


def _check_splits(splits: dict[int, tuple[list[str], list[str]]], on_disk: set[str], counts: Counts) -> Iterator[str]:
    """Problems of lists that could be read: every video of the archive is in one of the two lists of a split."""
    listed = {video for lists in splits.values() for videos in lists for video in videos}
    yield from _some("listed videos are missing", listed - on_disk)
    for fold, (train, test) in splits.items():
        if fold == 1:
            yield from _compare("videos in trainlist01.txt", len(train), counts.train)
            yield from _compare("videos in testlist01.txt", len(test), counts.test)
        times = Counter([*train, *test])
        yield from _some(f"videos are listed twice in split {fold}", [video for video in times if times[video] > 1])
        yield from _some(f"videos are in neither list of split {fold}", (listed | on_disk) - set(times))


def _compare(noun: str, count: int, expected: int) -> list[str]:
    return [] if count == expected else [f"{count:,} {noun}, there should be {expected:,}"]


def _some(problem: str, names: Iterable[str]) -> list[str]:
    """One problem that counts the names and gives the first of them; none without names."""
    names = sorted(names)
    return [f"{len(names):,} {problem}: {first_few(names)}"] if names else []
