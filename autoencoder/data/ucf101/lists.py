"""The files of UCF-101: folders of videos, lists of classes and splits, and what the names of videos say."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.data.listing import VIDEO_ENDINGS, refuse_utf16

GROUP = re.compile(r".+_(g\d+)_c\d+\.avi", re.IGNORECASE)  # the clips of a group were cut from one video
NAME = re.compile(r".+/v_[^/]*\.avi", re.IGNORECASE | re.DOTALL)
SOURCE = "https://www.crcv.ucf.edu/data/UCF101.php"
LAYOUT = """\
  UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi, ...
  ucfTrainTestlist/classInd.txt, trainlist01.txt, testlist01.txt, ... (to 03)"""


def group_of(video: str) -> str | None:
    """The group that the name of a video tells, such as "g01"; None if it tells none.

    Args:
        video: a path like `Archery/v_Archery_g01_c01.avi`, in any case of letters.
    """
    match = GROUP.fullmatch(video)
    return match and match[1].lower()


def not_there(folder: Path, problem: str) -> str:
    """The message of an error that says what is missing in a folder, and what to put where."""
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
    raise MissingFileError(not_there(root, problem))


def shared_groups(train: Iterable[str], test: Iterable[str]) -> list[str]:
    """Groups of which there are videos in both lists of a split, such as archery_g01; the official ones share none.

    Args:
        train, test: paths of videos.
    """
    groups = ({(path.lower().split("/")[0], group_of(path)) for path in paths} for paths in (train, test))
    return sorted("_".join(shared) for shared in set.intersection(*groups) if shared[1] is not None)


def check_listed_once(where: str, videos: list[str]) -> None:
    """Refuse lists that are empty or name a video twice.

    Args:
        where: paths of the lists, for the message.
        videos: paths of all their videos.

    Raises:
        UserError: naming the lists.
    """
    if not videos:
        raise UserError(f"{where}: it lists no video; lines are like 'Archery/v_Archery_g01_c01.avi 3'")
    twice = [path for path, count in Counter(path.lower() for path in videos).items() if count > 1]
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
    refuse_utf16(path)
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


def avi_files(videos: Path) -> Iterator[str]:
    """Paths of the videos in the class folders, relative to the folder that holds these."""
    return (path for path in _video_files(videos) if NAME.fullmatch(path))


def other_videos(videos: Path) -> list[str]:
    """Paths of videos in the class folders that are not named as those of UCF-101 are, such as copies in mp4."""
    return sorted(path for path in _video_files(videos) if not NAME.fullmatch(path))


def _video_files(videos: Path) -> Iterator[str]:
    return (
        path.relative_to(videos).as_posix()
        for path in videos.glob("*/*")
        if path.name.lower().endswith(VIDEO_ENDINGS) and not path.name.startswith(".")
    )
