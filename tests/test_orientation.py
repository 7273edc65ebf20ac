"""The eight orientations of the display matrix, in every reader and in what is written."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from video_files import UNIT_MATRIX, make_video

from autoencoder.data.orientation import AS_STORED, OddAngle, Orientation, orientation_of
from autoencoder.data.video_io import ClipReader, UnreadableVideo
from autoencoder.whole_videos.listed_videos import ListedVideo
from autoencoder.whole_videos.scores import Protocol
from autoencoder.whole_videos.video_file import open_file, open_writer

FAULTS = Path(__file__).parents[2] / "shared" / "faults" / "videos"
ONE = 1 << 16

# Matrix entries a, b, c, d: the pixel (p, q) goes to (a p + c q, b p + d q); and what a player makes of the picture.
EIGHT = {
    "as stored": ((ONE, 0, 0, ONE), lambda x: x),
    "clockwise": ((0, ONE, -ONE, 0), lambda x: np.rot90(x, -1)),
    "upside down": ((-ONE, 0, 0, -ONE), lambda x: np.rot90(x, 2)),
    "anticlockwise": ((0, -ONE, ONE, 0), lambda x: np.rot90(x, 1)),
    "left for right": ((-ONE, 0, 0, ONE), lambda x: x[:, ::-1]),
    "top for bottom": ((ONE, 0, 0, -ONE), lambda x: x[::-1]),
    "transposed": ((0, ONE, ONE, 0), lambda x: x.swapaxes(0, 1)),
    "transposed across": ((0, -ONE, -ONE, 0), lambda x: np.rot90(x, 2).swapaxes(0, 1)),
}


def set_matrix(source: Path, target: Path, a: int, b: int, c: int, d: int) -> Path:
    """A copy of an mp4 file with another display matrix of its track."""
    data = source.read_bytes()
    at = data.rindex(UNIT_MATRIX)
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data[:at] + matrix + data[at + len(matrix) :])
    return target


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return make_video(tmp_path_factory.mktemp("plain") / "plain.mp4", count=6)


@pytest.fixture(scope="module")
def stored(plain) -> np.ndarray:
    return ClipReader(1, sample_fps=None).read(plain)[0].numpy()


@pytest.mark.parametrize("name", EIGHT)
def test_every_reader_shows_what_a_player_shows(plain, stored, tmp_path, name):
    matrix, shown = EIGHT[name]
    path = set_matrix(plain, tmp_path / "video.mp4", *matrix)
    expected = torch.from_numpy(np.ascontiguousarray(shown(stored)))
    file = open_file(path)
    middle = ClipReader(1, sample_fps=None, unseeded="middle").read(path)[0]
    assert torch.equal(middle, expected)
    assert (file.format.height, file.format.width) == expected.shape[:2]
    third = next(pixels for place, (pixels, *_) in enumerate(file.frames()) if place == 2)
    assert torch.equal(third, expected)
    clip = next(Protocol(None, 6, 32).clips(ListedVideo("video", path), file))
    assert torch.equal(clip[2], expected)


@pytest.mark.parametrize("name", EIGHT)
def test_what_is_written_plays_upright(plain, stored, tmp_path, name):
    matrix, shown = EIGHT[name]
    source = open_file(set_matrix(plain, tmp_path / "video.mp4", *matrix))
    with open_writer(tmp_path / "out.mp4", source.format) as writer:
        for frame in source.frames():
            writer.write(*frame)
    written = open_file(tmp_path / "out.mp4")
    assert written.orientation == AS_STORED
    assert (written.format.width, written.format.height) == (source.format.width, source.format.height)
    clip = ClipReader(1, sample_fps=None).read(tmp_path / "out.mp4")[0].numpy()
    assert np.abs(clip.astype(int) - shown(stored)).mean() < 2


def test_scale_and_rounding_do_not_matter():
    def of(*abcd: int) -> Orientation:
        a, b, c, d = abcd
        return orientation_of(struct.pack("<9i", a, b, 0, c, d, 0, 640 << 16, 0, 1 << 30))

    assert of(2 * ONE, 0, 0, ONE) == of(ONE, 300, -300, ONE) == AS_STORED
    assert of(0, 3 * ONE, -ONE, 0) == Orientation(True, False, True)
    assert of(0, 0, 0, 0) == orientation_of(None) == AS_STORED, "a matrix that maps all to a point is none"
    with pytest.raises(OddAngle, match="by 45 degrees"):
        of(46341, 46341, -46341, 46341)


def test_other_angles_are_refused_by_name(plain, tmp_path):
    path = set_matrix(plain, tmp_path / "slanted.mp4", 46341, 46341, -46341, 46341)
    for read in (ClipReader(1, sample_fps=None).read, open_file):
        with pytest.raises(UnreadableVideo, match="slanted.mp4: its display matrix turns the picture by 45 degrees"):
            read(path)


@pytest.mark.skipif(not FAULTS.is_dir(), reason=f"{FAULTS} is absent")
def test_a_mirrored_video():
    plain, mirrored = (ClipReader(4, sample_fps=None).read(FAULTS / name) for name in ("plain.mp4", "hflip.mp4"))
    assert torch.equal(mirrored, plain.flip(2))
    assert not torch.equal(mirrored, plain)
