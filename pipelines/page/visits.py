"""What the page holds for each visitor, for as long as he is there."""

import os
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import torch

from autoencoder.latents import VidTwinLatents
from pipelines.page.work import Work


@dataclass
class Visit:
    """One visitor's clips, latents, files and work.

    Attributes:
        folder: of the files that are shown to him.
        clips: what was read from his uploads, uint8 (T, S, S, 3), by the control that took it.
        ends: latents of the two clips between which he walks, by the tab.
        work: what runs for him, by its button.
        uploads: files that he has uploaded and that are still there, by the path that each was uploaded to.
        is_over: whether he has left.
    """

    folder: Path
    clips: dict[str, torch.Tensor] = field(default_factory=dict)
    ends: dict[str, tuple[VidTwinLatents, VidTwinLatents]] = field(default_factory=dict)
    work: dict[str, Work] = field(default_factory=dict)
    uploads: dict[Path, Path] = field(default_factory=dict)
    is_over: bool = False

    def new_folder(self, name: str) -> Path:
        """An empty folder for what a button shows next; `keep_newest` removes the earlier ones."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return Path(mkdtemp(dir=folder))

    def keep_newest(self, newest: Path) -> None:
        """Remove what the button of a `new_folder` showed before it."""
        for folder in newest.parent.iterdir():
            if folder != newest:
                shutil.rmtree(folder, ignore_errors=True)

    def take_upload(self, path: str | Path) -> Path:
        """Move an uploaded file to the visit, unless it is there; `drop_upload` or the visit's end removes it.

        There it is removed with all else of him, and not by age. Whoever has an earlier path of it may go on giving it.

        Returns:
            Where it is now; a path at which there is no file is returned as it is.
        """
        path = Path(path)
        own = self.uploads.get(path, path)
        if self.folder not in own.parents and own.is_file():
            own = self.uploads[path] = self.new_folder("upload") / path.name
            os.replace(path, own)
            _remove_empty(path.parent)
        return own

    def drop_upload(self, path: Path) -> None:
        """Remove an uploaded file that was taken, and the folder that was made for it."""
        if path.is_file():
            path.unlink(missing_ok=True)
            _remove_empty(path.parent)
        self.uploads = {given: own for given, own in self.uploads.items() if own != path}

    def drop_uploads(self) -> None:
        """Remove all files that he has uploaded."""
        for path in tuple(self.uploads.values()):
            self.drop_upload(path)

    def end(self) -> None:
        """Stop the visitor's work, and forget all of him."""
        self.is_over = True
        for work in tuple(self.work.values()):
            work.stop()
        self.drop_uploads()
        shutil.rmtree(self.folder, ignore_errors=True)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it holds something, or is gone
        folder.rmdir()


class Visits:
    """The visits by their keys.

    Args:
        folder: holds a folder of every visit.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._visits)

    def of(self, key: str) -> Visit:
        """The visit of a key, which begins if there is none."""
        with self._lock:
            if key not in self._visits:
                self._visits[key] = Visit(Path(mkdtemp(prefix="visit-", dir=self.folder)))
            return self._visits[key]

    def end(self, key: str) -> None:
        """End a visit, if there is one."""
        with self._lock:
            visit = self._visits.pop(key, None)
        if visit is not None:
            visit.end()

    def end_all(self) -> None:
        """End all visits."""
        for key in tuple(self._visits):
            self.end(key)
