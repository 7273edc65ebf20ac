"""UCF-101 as unpacked from its archives, with its official split lists (Soomro et al., arXiv 1212.0402)."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from autoencoder.common.errors import MissingFileError, UserError, first_few
from autoencoder.data.choice import contents_of, find_classes, find_contents, of_named_contents
from autoencoder.data.folder import VideoFiles
from autoencoder.data.listing import ContentColumn, Listing, PathTable
from autoencoder.data.remarks import print_once
from autoencoder.data.ucf101.lists import (
    avi_files,
    check_listed_once,
    find_lists,
    group_of,
    not_there,
    other_videos,
    read_classes,
    read_split,
    shared_groups,
    videos_folder,
)
from autoencoder.data.video_io import ClipReader

SPLITS = {"train": ("train",), "test": ("test",), "all": ("train", "test")}
Entry = tuple[str, int]  # path of a listed video, and its 0-based id among all classes


class UCF101(VideoFiles):
    """The 13,320 videos of 101 classes in the official splits, or a part of them.

    Class ids are 0-based in the order of `classInd.txt` and count the classes that are taken. Names of folders and
    files are matched without regard to case, because the official lists and the archive disagree (`HandstandPushups`
    holds `v_HandStandPushups_*`).

    The content of a video is its class and group, such as `BenchPress_g01`: the clips of a group show one actor and
    place, were cut from one video, and are each other's companions. No group lies in both lists of an official split.

    Args:
        root: holds `UCF-101/` or the class folders, and the lists in `ucfTrainTestlist/`, beside the class folders or
            beside `UCF-101/`.
        num_frames: frames of a clip.
        size: height and width of a clip in pixels.
        split: "train", "test" or "all".
        fold: official split 1, 2 or 3; every video is in one of its two lists.
        sample_fps: frames taken per second of video; None takes every frame.
        sampling: "time", by time stamps, or "stride", every so many frames.
        crop: "center" or "random".
        decoder: "auto", "pyav" or "decord", as in `ClipReader`.
        keep_mib: memory for decoded videos in every process that reads, in MiB.
        classes: names of the classes to take, in any order and case of letters; None takes all.
        held_out_contents: contents that make up the "test" split, in place of the official lists, which then only tell
            which videos there are; in any case of letters. A group alone, such as `g01`, is that of every class.
        allow_missing: whether listed videos of these classes may be missing. The first process prints once how many
            are. Without `classes`, the classes are then those with a video.

    Raises:
        MissingFileError: if the lists are not there, or listed videos that may not be missing, or all of the split.
        UserError: if an argument or a line of a list does not fit, there is no such class or content, the split is
            empty, or the lists share a group.
    """

    def __init__(
        self,
        root: str | Path,
        num_frames: int,
        size: int,
        *,
        split: str = "train",
        fold: int = 1,
        sample_fps: float | None = 8.0,
        sampling: str = "time",
        crop: str = "center",
        decoder: str = "auto",
        keep_mib: int = 0,
        classes: Sequence[str] | None = None,
        held_out_contents: Sequence[str] | None = None,
        allow_missing: bool = False,
    ):
        reading = {"sample_fps": sample_fps, "sampling": sampling, "crop": crop, "decoder": decoder}
        reader = ClipReader(num_frames, size, keep_mib=keep_mib, **reading)
        if split not in SPLITS:
            raise UserError(f"split={split!r} is none of {', '.join(SPLITS)}")
        if fold not in (1, 2, 3):
            raise UserError(f"fold={fold} is none of 1, 2, 3")
        regroups = held_out_contents is not None
        fold = _Fold(Path(root).absolute(), fold, SPLITS["all" if regroups else split], classes, allow_missing)
        if not regroups and split != "all":
            fold.check_groups()
        listing = fold.listing()
        if regroups and split != "all":
            listing = _regrouped(fold.videos, listing, held_out_contents, split)
        super().__init__(
            fold.videos,
            listing.paths,
            reader,
            labels=listing.labels,
            class_names=listing.class_names,
            contents=listing.contents,
            content_names=listing.content_names,
        )

    def class_id(self, name: str) -> int:
        """0-based id of a class name, in any case of letters.

        Raises:
            UserError: if there is no such class; the message lists the nearest names.
        """
        return find_classes([name], self.class_names, "the data set", str.lower)[0]


class _Fold:
    """The lists of a split, and which of their videos there are.

    Args:
        root: as for `UCF101`, absolute.
        fold: number of the split.
        parts: "train", "test" or both: the lists whose videos are taken. The other one is read where there is one.
        classes, allow_missing: as for `UCF101`.
    """

    def __init__(self, root: Path, fold: int, parts: Sequence[str], classes: Sequence[str] | None, allow_missing: bool):
        self.videos, self.parts, self.asked = videos_folder(root), parts, classes
        self.names = {part: f"{part}list{fold:02d}.txt" for part in SPLITS["all"]}
        self.lists = find_lists(root, self.videos, ["classInd.txt", *(self.names[part] for part in parts)])
        self.all_classes = read_classes(self.lists / "classInd.txt")
        self.classes: Sequence[int] = range(len(self.all_classes))
        if classes is not None:
            self.classes = find_classes(classes, self.all_classes, "UCF-101", str.lower)
        self.listed = self._read()
        on_disk = {path.lower(): path for path in avi_files(self.videos)}
        self.there = {
            part: [(on_disk[path.lower()], label) for path, label in entries if path.lower() in on_disk]
            for part, entries in self.listed.items()
        }
        self._check_missing(allow_missing, on_disk)
        if classes is None and allow_missing:
            self.classes = sorted({label for entries in self.there.values() for _, label in entries})

    def _read(self) -> dict[str, list[Entry]]:
        """Videos of the classes that are taken, by list."""
        ids = {name.lower(): place for place, name in enumerate(self.all_classes)}
        paths = {part: self.lists / name for part, name in self.names.items()}
        listed = {part: read_split(path, ids) for part, path in paths.items() if path.is_file()}
        check_listed_once(self._where, [path for part in self.parts for path, _ in listed[part]])
        taken = set(self.classes)
        return {part: [entry for entry in entries if entry[1] in taken] for part, entries in listed.items()}

    @property
    def _where(self) -> str:
        return " and ".join(str(self.lists / self.names[part]) for part in self.parts)

    def check_groups(self) -> None:
        """Refuse two lists that share a group."""
        paths = [[path for path, _ in entries] for entries in self.listed.values()]
        if len(paths) == 2 and (shared := shared_groups(*paths)):
            raise UserError(
                f"{' and '.join(self.names.values())} in {self.lists} share {first_few(shared)}: the clips of a group "
                "show one actor and place, and belong into one of the two lists; --held-out-contents holds out whole "
                "groups in their place"
            )

    def _check_missing(self, allow_missing: bool, on_disk: Collection[str]) -> None:
        """Refuse missing videos of the parts that are taken, or print how many of all are missing."""
        listed = [entry for part in (self.listed if allow_missing else self.parts) for entry in self.listed[part]]
        missing = [path for path, _ in listed if path.lower() not in on_disk]
        if not missing:
            return
        count = f"{len(missing)} of {len(listed)} listed videos are missing"
        if allow_missing:
            print_once(f"{self.videos}: {count}; it holds {self._counts()}")
        else:
            few = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            there = f"Of {' and '.join(self.names[part] for part in self.listed)} it holds {self._counts()}"
            remedy = "--allow-missing goes on with what is there, --classes A,B asks for no other classes than these"
            raise MissingFileError(not_there(self.videos, f"{count}: {few}. {there}; {remedy}"))

    def _counts(self) -> str:
        """How many videos of which classes there are in both lists, and which videos cannot be listed."""
        listed, there = (
            Counter(label for entries in lists.values() for _, label in entries) for lists in (self.listed, self.there)
        )
        counts = (f"{self.all_classes[label]} {there[label]} of {listed[label]}" for label in sorted(there))
        others = other_videos(self.videos)
        beside = f", beside {len(others)} that are not named v_*.avi ({first_few(others)})" if others else ""
        return first_few(counts, 5) + beside

    def listing(self) -> Listing:
        """The videos that there are in the lists taken, with paths as on disk.

        Raises:
            MissingFileError: if there are none, or of a class that was asked for none to train on.
        """
        entries = [entry for part in self.parts for entry in self.there[part]]
        if not entries:
            raise MissingFileError(f"{self.videos} holds none of the videos that are listed in {self._ways_on()}")
        labels = {label for _, label in entries}
        absent = [self.all_classes[label] for label in self.classes if label not in labels]
        if absent and self.asked is not None and self.parts != SPLITS["test"]:
            raise MissingFileError(
                f"{self.videos} holds no video of {first_few(absent, 10)}, which --classes asks for, of those that are "
                f"listed in {self._ways_on()}"
            )
        contents, new_labels = ContentColumn(), {label: place for place, label in enumerate(self.classes)}
        for path, label in entries:
            group = group_of(path)
            contents.append(group and f"{self.all_classes[label]}_{group}")
        return Listing(
            PathTable(path for path, _ in entries),
            np.array([new_labels[label] for _, label in entries], dtype=np.int32),
            tuple(self.all_classes[label] for label in self.classes),
            None,
            *contents.columns,
        )

    def _ways_on(self) -> str:
        """The end of a message: the lists that do not do, how many videos the other one has, and what to give."""
        names = " and ".join(self.names[part] for part in self.parts)
        if len(self.parts) > 1:
            return names
        others = [f" ({self.names[part]}: {len(self.there[part])})" for part in self.there if part not in self.parts]
        return (
            f"{names}{''.join(others)}: --held-out-contents, such as BenchPress_g01, takes contents in place of the "
            "lists, --ucf101-fold other lists"
        )


def _regrouped(videos: Path, listing: Listing, held_out: Sequence[str], split: str) -> Listing:
    """The videos of the contents that are held out, or all others.

    Raises:
        UserError: if there is no such content, or no other video.
    """
    names = [name.lower() for name in held_out]
    is_named = find_contents(names, listing.content_names, str(videos), _spellings)
    chosen = listing.select(of_named_contents(listing, is_named) == (split == "test"))
    if not chosen.paths:
        raise UserError(
            f"{videos}: held_out_contents={list(held_out)} leaves no video to train on; there are the contents "
            f"{first_few(sorted(contents_of(listing)), 10)}"
        )
    return chosen


def _spellings(content: str) -> tuple[str, str]:
    """All names of a content, in small letters: its class and group, and its group."""
    return content.lower(), content.lower().rpartition("_")[2]
