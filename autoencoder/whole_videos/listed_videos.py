"""The videos that an evaluation takes: those of a folder or a manifest, or made ones in their place."""

import math
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.data.listing import VIDEO_ENDINGS, read_manifest
from autoencoder.data.scan import scan_folder
from autoencoder.data.shapes import Shapes
from autoencoder.whole_videos.made_video import MadeVideo
from autoencoder.whole_videos.video_file import VideoFile, open_file


@dataclass(frozen=True)
class ListedVideo:
    """A file, and the seconds of it to evaluate.

    Attributes:
        name: path as it was listed, for reports.
        path: where the file is.
        start, end: seconds since the first frame, between which frames are shown.
        made: what is read in the file's place.
    """

    name: str
    path: Path
    start: float = 0.0
    end: float = math.inf
    made: MadeVideo | None = None

    def open(self) -> VideoFile | MadeVideo:
        """The video, ready to give its frames.

        Raises:
            UnreadableVideo: if the file cannot be read.
        """
        return self.made or open_file(self.path)


def list_videos(root: str | Path) -> list[ListedVideo]:
    """The videos of a folder tree, or of a manifest with the header path[,label][,start][,end][,content].

    Raises:
        MissingFileError: if there is no such folder or manifest, or no video in it.
        UserError: naming the first line of the manifest that does not fit.
    """
    root = Path(root)
    is_manifest = root.suffix.lower() == ".csv" and not root.is_dir()
    if not (root.is_file() if is_manifest else root.is_dir()):
        raise MissingFileError(f"no videos at {root}: it must be a folder, or a .csv file with the column path")
    listing = read_manifest(root) if is_manifest else scan_folder(root)
    if not len(listing.paths):
        raise MissingFileError(f"{root} lists no video: files ending in {', '.join(VIDEO_ENDINGS)} are taken")
    folder = root.parent if is_manifest else root
    windows = [(0.0, math.inf)] * len(listing.paths) if listing.windows is None else listing.windows.tolist()
    return [
        ListedVideo(name, folder / name, start, end) for name, (start, end) in zip(listing.paths, windows, strict=True)
    ]


def made_shapes(count: int, num_frames: int, size: int) -> list[ListedVideo]:
    """The first held-out moving shapes, as videos of two clips each.

    Raises:
        UserError: if there are not as many, or shapes are not made at this length or size.
    """
    shapes = Shapes(num_frames, size, "val")
    if count > len(shapes):
        raise UserError(f"there are {len(shapes):,} held-out moving shapes, not {count:,}")
    names = [shapes.source(index) for index in range(count)]
    return [ListedVideo(name, Path(name), made=MadeVideo(shapes, index)) for index, name in enumerate(names)]
