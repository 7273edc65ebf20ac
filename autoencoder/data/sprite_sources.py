"""The two forms in which the clips of Sprites come: the file sprites.npz, and the sheets that they are rendered from.

A clip is told by its character, skin * 216 + trousers * 36 + top * 6 + hair of the values of `ATTRIBUTES`, each 0 to 5,
and by its action, an index into `CLASS_NAMES`.
"""

import zipfile
import zlib
from array import array
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from autoencoder.common.errors import MissingFileError, UserError, first_few

NUM_FRAMES, SIDE = 8, 64
ACTIONS, VIEWS = ("walk", "spellcard", "slash"), ("front", "left", "right")
CLASS_NAMES = tuple(f"{action}_{view}" for action in ACTIONS for view in VIEWS)
ATTRIBUTES = ("skin", "trousers", "top", "hair")
NUM_VALUES = 6  # of every attribute
NUM_CHARACTERS = NUM_VALUES ** len(ATTRIBUTES)
FILE_NAME = "sprites.npz"

# The sheets of a character from the lowest layer to the highest: a folder per attribute, and the shoes of all.
LAYERS = ("body", "bottomwear", "topwear", "hair")
SHOES = "shoes/1.png"
SHEETS = (*(f"{layer}/{value}.png" for layer in LAYERS for value in range(NUM_VALUES)), SHOES)
# Where a sheet of 64 x 64 cells shows an action: the row of each view, and the column of each frame.
ROWS = {
    "walk": {"left": 9, "front": 10, "right": 11},
    "spellcard": {"left": 1, "front": 2, "right": 3},
    "slash": {"left": 13, "front": 14, "right": 15},
}
COLUMNS = {
    "walk": (8, 1, 2, 3, 4, 5, 6, 7),
    "spellcard": (0, 1, 2, 3, 4, 5, 4, 6),
    "slash": (0, 1, 2, 3, 4, 5, 4, 0),
}


class SpriteSource(Protocol):
    """Clips of some or all characters in some or all actions.

    Attributes:
        characters: int64 (N,) the character of every clip.
        actions: int64 (N,) its action.
    """

    characters: np.ndarray
    actions: np.ndarray

    def frames(self, index: int) -> np.ndarray:
        """Clip `index`, uint8 (8, 64, 64, 3)."""


def open_source(root: Path) -> SpriteSource:
    """Open `root`: a file like sprites.npz, a folder that holds one, or a folder of sheets.

    Raises:
        MissingFileError: if there is neither; the message says what to put where.
        UserError: if the file or a sheet does not hold what it should.
    """
    files = source_files(root)
    if len(files) == len(SHEETS):
        return SpriteSheets(root)
    status = files[0].stat()
    return _open_file(files[0], (status.st_size, status.st_mtime_ns))


def source_files(root: Path) -> list[Path]:
    """The files that the clips of `root` are made from: the one file, or all sheets in order.

    Raises:
        MissingFileError: as `open_source`.
    """
    file = root / FILE_NAME if root.is_dir() else root
    if file.is_file():
        return [file]
    sheets = [root / sheet for sheet in SHEETS]
    missing = [str(sheet.relative_to(root)) for sheet in sheets if not sheet.is_file()]
    if not missing:
        return sheets
    if not root.exists():
        problem = "it does not exist"
    else:
        problem = f"it holds no {FILE_NAME}, and of the sheets it lacks {first_few(missing)}"
    raise MissingFileError(
        f"no sprites at {root.absolute()}: {problem}. Give the file {FILE_NAME}, the folder it lies in, or a clone of "
        "https://github.com/YingzhenLi/Sprites, whose sheets are rendered; `--dataset shapes` needs no files"
    )


@lru_cache(maxsize=1)
def _open_file(path: Path, state: tuple[int, int]) -> "SpriteFile":
    """One copy for the training and the held-out part; `state` is the file's size and modification time."""
    return SpriteFile(path)


class SpriteFile:
    """The clips of a file like sprites.npz, a `SpriteSource`.

    The file holds `video` uint8 (N, 8, 64, 64, 3), `label` (N,) actions and `attr` (N, 4) values of `ATTRIBUTES`. All
    clips take 1.1 GB. They are kept compressed one by one, in 74 MB that forked workers share, so that no process ever
    holds more of them than it looks at; reading one takes 0.15 ms, opening the file some seconds.

    Args:
        path: of the file.

    Raises:
        UserError: if the file does not hold that.
    """

    def __init__(self, path: Path):
        try:
            with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
                self.actions, attributes = arrays["label"].astype(np.int64), arrays["attr"].astype(np.int64)
                _check_labels(self.actions, attributes)
                with archive.open("video.npy") as stream:
                    self._clips = _PackedClips(_clips_of(stream, len(self.actions)))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{path} is no file of sprites: {error}. It must hold the arrays video, uint8 (N, {NUM_FRAMES}, "
                f"{SIDE}, {SIDE}, 3), label, (N,) of 0 to {len(CLASS_NAMES) - 1}, and attr, (N, {len(ATTRIBUTES)}) of "
                f"0 to {NUM_VALUES - 1}"
            ) from error
        self.characters = np.ravel_multi_index(tuple(attributes.T), [NUM_VALUES] * len(ATTRIBUTES))

    def frames(self, index: int) -> np.ndarray:
        """Clip `index`, uint8 (8, 64, 64, 3)."""
        return self._clips[index]


def _clips_of(stream: IO[bytes], count: int) -> Iterator[bytes]:
    """The bytes of every clip of an array in numpy's format, read one by one."""
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(stream)
    wanted = (count, NUM_FRAMES, SIDE, SIDE, 3)
    if shape != wanted or is_fortran or dtype != np.uint8:
        raise ValueError(f"video is {dtype} {shape} for {count} labels")
    for _ in range(count):
        yield stream.read(np.prod(wanted[1:]))
    stream.read(1)  # the end of the file, where its checksum is compared


def _check_labels(actions: np.ndarray, attributes: np.ndarray) -> None:
    wanted = {
        "label": (actions, (actions.size,), len(CLASS_NAMES)),
        "attr": (attributes, (actions.size, len(ATTRIBUTES)), NUM_VALUES),
    }
    for name, (values, shape, end) in wanted.items():
        if not values.size or values.shape != shape or values.min() < 0 or values.max() >= end:
            raise ValueError(f"{name} is {values.shape} of {_range(values)}, not {shape} of 0 to {end - 1}")


def _range(values: np.ndarray) -> str:
    return f"{values.min()} to {values.max()}" if values.size else "nothing"


class _PackedClips:
    """Clips compressed one by one, in one buffer that forked workers do not copy.

    Args:
        clips: the bytes of each; taken one by one.
    """

    def __init__(self, clips: Iterable[bytes]):
        packed, bounds = bytearray(), array("q", [0])
        for clip in clips:
            packed += zlib.compress(clip, level=1)
            bounds.append(len(packed))
        self._packed = np.frombuffer(packed, dtype=np.uint8)
        self._bounds = np.array(bounds, dtype=np.int64)

    def __getitem__(self, index: int) -> np.ndarray:
        clip = bytearray(zlib.decompress(self._packed[self._bounds[index] : self._bounds[index + 1]]))
        return np.frombuffer(clip, dtype=np.uint8).reshape(NUM_FRAMES, SIDE, SIDE, 3)


class SpriteSheets:
    """All clips of all characters, rendered from sheets when they are asked for; a `SpriteSource`.

    As the scripts of YingzhenLi/Sprites do it (Li and Mandt, arXiv 1803.02991): body, trousers, top, hair and shoes are
    laid over black one after the other, by their opacity, and a clip takes eight cells of its action's row.

    Args:
        root: folder of `SHEETS`, each with 13 columns of 64 x 64 cells and at least 16 rows.

    Raises:
        MissingFileError: if a sheet is not there.
        UserError: if one is no picture of that size.
    """

    def __init__(self, root: Path):
        sheets = {name: _read_sheet(path) for name, path in zip(SHEETS, source_files(root), strict=True)}
        self._shoes = sheets.pop(SHOES)
        self._layers = np.stack(list(sheets.values())).reshape(len(LAYERS), NUM_VALUES, *self._shoes.shape)
        numbers = np.arange(NUM_CHARACTERS * len(CLASS_NAMES))
        self.characters, self.actions = np.divmod(numbers, len(CLASS_NAMES))

    def frames(self, index: int) -> np.ndarray:
        """Clip `index`, uint8 (8, 64, 64, 3)."""
        action = self.actions[index]
        values = np.unravel_index(self.characters[index], [NUM_VALUES] * len(LAYERS))
        layers = [of_layer[value, action] for of_layer, value in zip(self._layers, values, strict=True)]
        picture = Image.new("RGBA", (SIDE, NUM_FRAMES * SIDE), "black")  # the frames below one another
        for layer in (*layers, self._shoes[action]):
            picture = Image.alpha_composite(picture, Image.fromarray(layer.reshape(NUM_FRAMES * SIDE, SIDE, 4)))
        return np.array(picture.convert("RGB")).reshape(NUM_FRAMES, SIDE, SIDE, 3)


def _read_sheet(path: Path) -> np.ndarray:
    """The cells of all actions in RGBA, uint8 (9, 8, 64, 64, 4)."""
    try:
        with Image.open(path) as image:
            sheet = np.asarray(image.convert("RGBA"))
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path} is no picture that can be read: {error}") from error
    rows, columns = sheet.shape[0] // SIDE, sheet.shape[1] // SIDE
    if rows < 16 or columns != 13:
        raise UserError(
            f"{path} must be 13 x {SIDE} = 832 pixels wide and at least 16 x {SIDE} = 1024 high, it is "
            f"{sheet.shape[1]} x {sheet.shape[0]}"
        )
    cells = sheet[: rows * SIDE].reshape(rows, SIDE, -1, SIDE, 4).swapaxes(1, 2)  # (rows, 13, 64, 64, 4)
    actions = (name.split("_") for name in CLASS_NAMES)
    return np.stack([cells[ROWS[action][view], COLUMNS[action]] for action, view in actions])
