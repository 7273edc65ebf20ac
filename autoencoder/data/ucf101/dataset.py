"""UCF-101 as unpacked from its archives, with its official split lists (Soomro et al., arXiv 1212.0402)."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.data.folder import VideoFiles
from autoencoder.data.video_io import ClipReader

SPLITS = {"train": ("train",), "test": ("test",), "all": ("train", "test")}
GROUP = re.compile(r"(.+_g\d+)_c\d+\.avi")  # the clips of a group were cut from one video
SOURCE = "https://www.crcv.ucf.edu/data/UCF101.php"
LAYOUT = """\
  UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi, ...
  ucfTrainTestlist/classInd.txt, trainlist01.txt, testlist01.txt, ... (to 03)"""


class UCF101(VideoFiles):
    """The 13,320 videos of 101 classes, in the official splits.

    Class ids are 0-based in the order of `classInd.txt`. Folder and file names are matched without regard to case,
    because the official lists and the archive disagree (`HandstandPushups` holds `v_HandStandPushups_*`). Companions of
    a video are the other videos of its class and group (`_gNN_`) in the same split.

    Args:
        root: holds `UCF-101/` or the class folders, and the lists in `ucfTrainTestlist/`, beside the class folders or
            beside `UCF-101/`.
        num_frames: frames of a clip.
        size: height and width of a clip in pixels.
        split: "train", "test" or "all".
        fold: official split 1, 2 or 3; every video is in one of its two lists.
        sample_fps, sampling, crop, decoder, keep_mib: as in `ClipReader`.

    Raises:
        MissingFileError: if the lists, or listed videos, are not there.
        UserError: if an argument or a line of a list does not fit.
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
    ):
        reading = {"sample_fps": sample_fps, "sampling": sampling, "crop": crop, "decoder": decoder}
        reader = ClipReader(num_frames, size, keep_mib=keep_mib, **reading)
        if split not in SPLITS:
            raise UserError(f"split={split!r} is none of {', '.join(SPLITS)}")
        if fold not in (1, 2, 3):
            raise UserError(f"fold={fold} is none of 1, 2, 3")
        root = Path(root).absolute()
        videos = videos_folder(root)
        list_names = [f"{part}list{fold:02d}.txt" for part in SPLITS[split]]
        lists = find_lists(root, videos, ["classInd.txt", *list_names])

        class_names = read_classes(lists / "classInd.txt")
        ids = {name.lower(): index for index, name in enumerate(class_names)}
        listed = [entry for name in list_names for entry in read_split(lists / name, ids)]
        _check_listed_once(lists, list_names, [path.lower() for path, _ in listed])
        on_disk = {path.lower(): path for path in avi_files(videos)}
        missing = [path for path, _ in listed if path.lower() not in on_disk]
        if missing:
            few = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise MissingFileError(
                _not_there(videos, f"{len(missing)} of {len(listed)} listed videos are missing: {few}")
            )
        paths = [on_disk[path.lower()] for path, _ in listed]
        super().__init__(
            videos,
            paths,
            reader,
            labels=[label for _, label in listed],
            class_names=class_names,
            contents=_groups(paths),
        )

    def class_id(self, name: str) -> int:
        """0-based id of a class name, in any case of letters.

        Raises:
            UserError: if there is no such class; the message lists the nearest names.
        """
        ids = {known.lower(): index for index, known in enumerate(self.class_names)}
        if name.lower() not in ids:
            near = [self.class_names[ids[match]] for match in difflib.get_close_matches(name.lower(), ids, cutoff=0.4)]
            raise UserError(f"UCF-101 has no class {name!r}" + (f"; nearest: {', '.join(near)}" if near else ""))
        return ids[name.lower()]


def _groups(paths: Iterable[str]) -> np.ndarray:
    """Number of each video's class and group, int32 (N,); -1 for a file that is not named after a group."""
    names = (GROUP.fullmatch(path.lower()) for path in paths)
    known: dict[str, int] = {}
    return np.array([-1 if name is None else known.setdefault(name[1], len(known)) for name in names], dtype=np.int32)


def _not_there(folder: Path, problem: str) -> str:
    return (
        f"UCF-101 is not complete in {folder}: {problem}. Expected:\n{LAYOUT}\n"
        f"Videos and lists come from {SOURCE}; `--dataset shapes` needs no files."
    )


def videos_folder(root: Path) -> Path:
    """The folder that holds the class folders."""
    return root / "UCF-101" if (root / "UCF-101").is_dir() else root


def find_lists(root: Path, videos: Path, names: list[str]) -> Path:
    """The folder that holds all of the named lists.

    Raises:
        MissingFileError: if there is none.
    """
    folders = [root / "ucfTrainTestlist", root]
    if videos == root:
        folders += [root.parent / "ucfTrainTestlist", root.parent]
    for folder in folders:
        if all((folder / name).is_file() for name in names):
            return folder
    problem = "there is no such folder" if not root.is_dir() else f"no folder there holds {', '.join(names)}"
    raise MissingFileError(_not_there(root, problem))


def _check_listed_once(lists: Path, names: list[str], listed: list[str]) -> None:
    where = " and ".join(str(lists / name) for name in names)
    if not listed:
        raise UserError(f"{where}: it lists no video; lines are like 'Archery/v_Archery_g01_c01.avi 3'")
    twice = [path for path, count in Counter(listed).items() if count > 1]
    if twice:
        raise UserError(
            f"{where}: {len(twice)} videos are listed twice, the first one {twice[0]}; leave one line of each"
        )


def read_classes(path: Path) -> list[str]:
    """Class names in the order of their ids, from lines like `1 ApplyEyeMakeup`.

    The numbers may also begin at 0, or be left out in all lines.

    Raises:
        UserError: naming a line that is not like that.
    """
    names: list[str] = []
    start = None  # number of the first class; 1 is the official one
    for number, line in _lines(path):
        *given, name = line.split()
        if not names:
            start = int(given[0] != "0") if given else None
        wanted = [] if start is None else [str(start + len(names))]
        if given != wanted or name.isdigit():
            raise UserError(f"{path}, line {number}: expected '{' '.join([*wanted, '<class name>'])}', got {line!r}")
        if name.lower() in map(str.lower, names):
            raise UserError(f"{path}, line {number}: the class {name} is listed before; leave one line of it")
        names.append(name)
    if not names:
        raise UserError(f"{path}: it lists no class; lines are like '1 ApplyEyeMakeup'")
    return names


def read_split(path: Path, ids: dict[str, int]) -> list[tuple[str, int]]:
    """Videos and 0-based ids, from lines like `Archery/v_Archery_g01_c01.avi 3`; test lists omit the 1-based id.

    The ids may begin at 0 instead, and folders before that of the class do not count.

    Raises:
        UserError: naming a line that does not agree with the classes.
    """
    entries = []
    base = None  # number of the first class, as the first line that gives one has it
    for number, line in _lines(path):
        video, *given = line.replace("\\", "/").split()
        parts = [part for part in video.split("/") if part not in ("", ".")]
        label = ids.get(parts[-2].lower()) if len(parts) > 1 else None
        problem = None
        if len(parts) < 2 or len(given) > 1:
            problem = "a line is <class>/<video>.avi, and in training lists the number of the class"
        elif label is None:
            near = difflib.get_close_matches(parts[-2].lower(), ids)
            problem = f"it has no class {parts[-2]}" + (f"; nearest: {', '.join(near)}" if near else "")
        elif given:
            base = (0 if given[0] == str(label) else 1) if base is None else base
            if given[0] != str(label + base):
                problem = f"{parts[-2]} has the number {label + base}"
        if problem:
            raise UserError(f"{path}, line {number}: {line!r} does not agree with classInd.txt: {problem}")
        entries.append(("/".join(parts[-2:]), label))
    return entries


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers and texts of the lines that are neither blank nor comments."""
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


def avi_files(videos: Path) -> Iterator[str]:
    """Paths of the videos in the class folders, relative to the folder that holds these."""
    return (
        path.relative_to(videos).as_posix()
        for path in videos.glob("*/*")
        if path.name.lower().startswith("v_") and path.name.lower().endswith(".avi")
    )
