"""UCF-101 as it is unpacked, with its official split lists."""

import difflib
from collections.abc import Iterator
from pathlib import Path

from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.data.folder import VideoFiles
from autoencoder.data.video_io import ClipReader

SPLITS = {"train": ("train",), "test": ("test",), "all": ("train", "test")}
SOURCE = "https://www.crcv.ucf.edu/data/UCF101.php"
LAYOUT = """\
  UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi, ...
  ucfTrainTestlist/classInd.txt, trainlist01.txt, testlist01.txt, ... (to 03)"""


class UCF101(VideoFiles):
    """The 13,320 videos of 101 classes, in the official splits.

    Class ids are 0-based in the order of `classInd.txt`. Folder and file names are matched without regard to case,
    because the official lists and the archive disagree (`HandstandPushups` holds `v_HandStandPushups_*`).

    Args:
        root: holds `UCF-101/` or the class folders, and the lists in `ucfTrainTestlist/`, beside the class folders or
            beside `UCF-101/`.
        num_frames: frames of a clip.
        size: height and width of a clip in pixels.
        split: "train", "test" or "all".
        fold: official split 1, 2 or 3; every video is in one of its two lists.
        sample_fps, sampling, crop, decoder: as in `ClipReader`.

    Raises:
        FileNotFoundError: if the lists, or listed videos, are not there.
        ValueError: if an argument or a line of a list does not fit.
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
    ):
        reader = ClipReader(num_frames, size, sample_fps=sample_fps, sampling=sampling, crop=crop, decoder=decoder)
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
        on_disk = {path.lower(): path for path in avi_files(videos)}
        missing = [path for path, _ in listed if path.lower() not in on_disk]
        if missing:
            few = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise MissingFileError(
                _not_there(videos, f"{len(missing)} of {len(listed)} listed videos are missing: {few}")
            )
        super().__init__(
            videos,
            [on_disk[path.lower()] for path, _ in listed],
            reader,
            labels=[label for _, label in listed],
            class_names=class_names,
        )

    def class_id(self, name: str) -> int:
        """0-based id of a class name, in any case of letters.

        Raises:
            ValueError: if there is no such class; it lists the nearest names.
        """
        ids = {known.lower(): index for index, known in enumerate(self.class_names)}
        if name.lower() not in ids:
            near = [self.class_names[ids[match]] for match in difflib.get_close_matches(name.lower(), ids, cutoff=0.4)]
            raise UserError(f"UCF-101 has no class {name!r}" + (f"; nearest: {', '.join(near)}" if near else ""))
        return ids[name.lower()]


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
        FileNotFoundError: if there is none.
    """
    folders = [root / "ucfTrainTestlist", root]
    if videos == root:
        folders += [root.parent / "ucfTrainTestlist", root.parent]
    for folder in folders:
        if all((folder / name).is_file() for name in names):
            return folder
    problem = "there is no such folder" if not root.is_dir() else f"no folder there holds {', '.join(names)}"
    raise MissingFileError(_not_there(root, problem))


def read_classes(path: Path) -> list[str]:
    """Class names in the order of their ids, from lines like `1 ApplyEyeMakeup`.

    Raises:
        ValueError: naming a line that is not like that.
    """
    names = []
    for number, line in _lines(path):
        fields = line.split()
        if len(fields) != 2 or fields[0] != str(len(names) + 1):
            raise UserError(f"{path}, line {number}: expected '{len(names) + 1} <class name>', got {line!r}")
        names.append(fields[1])
    return names


def read_split(path: Path, ids: dict[str, int]) -> list[tuple[str, int]]:
    """Videos and 0-based ids, from lines like `Archery/v_Archery_g01_c01.avi 3`; test lists omit the 1-based id.

    Raises:
        ValueError: naming a line that does not agree with the classes.
    """
    entries = []
    for number, line in _lines(path):
        video, _, given = line.partition(" ")
        label = ids.get(video.split("/")[0].lower())
        if label is None or (given and given.strip() != str(label + 1)):
            raise UserError(f"{path}, line {number}: {line!r} does not agree with classInd.txt")
        entries.append((video, label))
    return entries


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def avi_files(videos: Path) -> Iterator[str]:
    """Paths of the videos in the class folders, relative to the folder that holds these."""
    return (path.relative_to(videos).as_posix() for path in videos.glob("*/v_*.avi"))
