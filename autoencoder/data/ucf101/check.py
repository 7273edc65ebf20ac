"""Checking that an unpacked UCF-101 is complete: all classes, videos and lists, and files that open."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import av
import numpy as np
from torch.utils.data import DataLoader, Dataset

from autoencoder.common.errors import first_few
from autoencoder.common.progress import progress_bar
from autoencoder.common.signals import leave_signals_to_the_parent
from autoencoder.data.choice import find_classes
from autoencoder.data.frame_index import UnreadableVideo, index_frames
from autoencoder.data.ucf101.lists import (
    avi_files,
    find_lists,
    group_of,
    other_videos,
    read_classes,
    read_split,
    shared_groups,
    videos_folder,
)
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


class Archive:
    """An unpacked UCF-101, whole or some of its classes. Videos are named by their paths in small letters.

    Args:
        root: as for `UCF101`.
        classes: names of the classes to look at, in any case of letters; None looks at all.

    Attributes:
        files: the video files by name.
        others: videos that are not named as those of UCF-101 are.
        classes: names of the classes that are looked at, in official order; empty where the list of them is not there.
        splits: the two lists of every split that can be read.

    Raises:
        UserError: if there is no such class.
    """

    def __init__(self, root: str | Path, classes: Sequence[str] | None = None):
        root = Path(root).absolute()
        folder = videos_folder(root)
        self.files = {path.lower(): folder / path for path in sorted(avi_files(folder))}
        self.others = other_videos(folder)
        self.classes: list[str] = []
        self.splits: dict[int, tuple[list[str], list[str]]] = {}
        self.is_whole, self._problems = classes is None, []
        if not root.is_dir():
            self._problems.append(f"there is no folder {root}")
            return
        try:
            lists = find_lists(root, folder, ["classInd.txt"])
            names = read_classes(lists / "classInd.txt")
        except FileNotFoundError:
            where = f"{root / 'ucfTrainTestlist'} or {root}"
            self._problems.append(f"there is no classInd.txt, the list of the classes, in {where}")
        except ValueError as error:
            self._problems.append(str(error))
        else:
            self.classes = names
            self._read_splits(lists)
            if classes is not None:
                self._leave_out_all_but([names[place] for place in find_classes(classes, names, "UCF-101", str.lower)])

    def _read_splits(self, lists: Path) -> None:
        """Only the lists of split 1 must be there."""
        ids = {name.lower(): place for place, name in enumerate(self.classes)}
        for fold in (1, 2, 3):
            paths = [lists / f"{part}list{fold:02d}.txt" for part in ("train", "test")]
            missing = [path.name for path in paths if not path.is_file()]
            if missing:
                is_problem = fold == 1 or len(missing) == 1
                self._problems += _some(f"lists missing in {lists}", missing if is_problem else [])
                continue
            try:
                train, test = ([video.lower() for video, _ in read_split(path, ids)] for path in paths)
            except ValueError as error:
                self._problems.append(str(error))
            else:
                self.splits[fold] = train, test

    def _leave_out_all_but(self, classes: list[str]) -> None:
        self.classes, folders = classes, {name.lower() for name in classes}
        self.files = {video: path for video, path in self.files.items() if _class_of(video) in folders}
        self.others = [video for video in self.others if _class_of(video).lower() in folders]
        self.splits = {
            fold: tuple([video for video in videos if _class_of(video) in folders] for videos in lists)
            for fold, lists in self.splits.items()
        }

    @property
    def listed(self) -> set[str]:
        """All videos of the lists."""
        return {video for lists in self.splits.values() for videos in lists for video in videos}

    def missing(self, counts: Counts) -> list[str]:
        """What there should be, a sentence each: lists and classes of the whole archive, and listed videos."""
        found = []
        if self.is_whole:
            found += _compare("videos", len(self.files), counts.videos)
            found += _compare("classes in classInd.txt", len(self.classes), counts.classes) if self.classes else []
            found += _some("classes without a video", self._absent())
        found += _some("listed videos are missing", self.listed - set(self.files))
        if self.is_whole and 1 in self.splits:
            train, test = self.splits[1]
            found += _compare("videos in trainlist01.txt", len(train), counts.train)
            found += _compare("videos in testlist01.txt", len(test), counts.test)
        return found

    def faults(self) -> list[str]:
        """What is not as it should be in what is there, a sentence each, but for files that cannot be read."""
        known = {name.lower() for name in self.classes}
        foreign = {_class_of(video) for video in self.files} - known if known else ()
        found = [*self._problems, *_some("folders of videos that are no class", foreign)]
        found += [] if self.is_whole else _some("classes without a video", self._absent())
        found += _some("videos are not named v_*.avi and do not count", self.others)
        for fold, (train, test) in self.splits.items():
            times = Counter([*train, *test])
            stray = (self.listed | set(self.files)) - set(times)
            found += _some(f"videos are listed twice in split {fold}", [name for name in times if times[name] > 1])
            found += _some(f"videos are in neither list of split {fold}", stray)
            found += _some(f"groups are in both lists of split {fold}", shared_groups(train, test))
        return found if self.files or self._problems else [*found, "there is no video"]

    def _absent(self) -> list[str]:
        present = set(map(_class_of, self.files))
        return [name for name in self.classes if name.lower() not in present]

    def contents(self) -> list[str]:
        """What there is, a line each: incomplete classes of which there are videos, the others in short, the lists."""
        listed, there, groups = Counter(map(_class_of, self.listed)), Counter(), defaultdict(set)
        for video in self.listed.intersection(self.files):
            there[_class_of(video)] += 1
            groups[_class_of(video)].add(group_of(video))
        width = max(map(len, self.classes), default=0)
        lines, complete, absent = [], [], []
        for name in self.classes:
            found, total = there[name.lower()], listed[name.lower()]
            if 0 < found < total:
                lines.append(f"{name:{width}}  {found:3} of {total:3}  {_in_short(groups[name.lower()])}")
            else:
                (complete if found else absent).append(name)
        lines += [f"complete: {first_few(complete, 10)}"] if complete else []
        lines += [f"no video of {first_few(absent, 10)}"] if absent else []
        for fold, lists in self.splits.items():
            train, test = (f"{len(set(videos) & set(self.files)):,} of {len(videos):,}" for videos in lists)
            lines.append(f"split {fold}: {train} to train on, {test} to test on")
        return lines

    def unreadable(self, num_workers: int = 0) -> list[str]:
        """Reasons of the files that cannot be read, judged by their packets and their first and middle frame."""
        loader = DataLoader(
            _Reasons([*self.files.values()]),
            batch_size=None,
            num_workers=num_workers,
            worker_init_fn=leave_signals_to_the_parent,
        )
        return [reason for reason in progress_bar(None, "opening videos", "video", over=loader) if reason]


def check(
    archive: Archive,
    counts: Counts = COMPLETE,
    *,
    allow_missing: bool = False,
    quick: bool = False,
    num_workers: int = 0,
) -> list[str]:
    """What is wrong with an unpacked UCF-101.

    Args:
        archive: what there is of it.
        counts: expected numbers, those of the complete data set.
        allow_missing: look only at what is there.
        quick: check names only, open no video.
        num_workers: processes that open videos; 0 opens them in this one.

    Returns:
        A sentence per problem; none where everything is as it should be.
    """
    problems = [*([] if allow_missing else archive.missing(counts)), *archive.faults()]
    return problems if quick else problems + archive.unreadable(num_workers)


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


def _class_of(video: str) -> str:
    return video.split("/")[0]


def _in_short(groups: Iterable[str | None]) -> str:
    """Names of groups, those that follow each other as one range, such as "g01 to g03, g07"."""
    numbers = sorted(int(name[1:]) for name in groups if name is not None)
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"g{run[0]:02}" + (f" to g{run[-1]:02}" if len(run) > 1 else "") for run in runs)


def _compare(noun: str, count: int, expected: int) -> list[str]:
    return [] if count == expected else [f"{count:,} {noun}, there should be {expected:,}"]


def _some(problem: str, names: Iterable[str]) -> list[str]:
    """One problem that counts the names and gives the first of them; none without names."""
    names = sorted(names)
    return [f"{len(names):,} {problem}: {first_few(names)}"] if names else []
