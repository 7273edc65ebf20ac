"""The index of a file is made once and kept, and a clip costs what its frames cost, however long the file is."""

import os
from pathlib import Path

import numpy as np
import pytest
from video_files import make_video, numbers

from autoencoder.data import decoders, frame_index
from autoencoder.data.frame_index import UnreadableVideo, index_frames
from autoencoder.data.video_io import ClipReader


@pytest.fixture
def scans(monkeypatch) -> list[str]:
    """Paths of the files whose packets are read."""
    paths, read_index = [], frame_index._read_index

    def note(path):
        paths.append(path)
        return read_index(path)

    monkeypatch.setattr(frame_index, "_read_index", note)
    frame_index._kept_index.cache_clear()
    return paths


def test_a_file_is_indexed_once_for_many_clips(tmp_path, scans):
    paths = [make_video(tmp_path / f"{name}.mp4") for name in "ab"]
    for seed in range(6):
        for path in paths:
            ClipReader(4, 32, decoder="pyav" if seed % 2 else "auto").read(path, np.random.default_rng(seed))
    assert scans == [str(path) for path in paths]


def test_a_changed_file_is_indexed_anew(tmp_path, scans):
    path = make_video(tmp_path / "a.mp4", count=20)
    assert len(index_frames(path).stamps) == 20
    make_video(path, count=30)
    assert len(index_frames(path).stamps) == 30
    state = os.stat(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    index_frames(path)
    path.write_text("no video")
    with pytest.raises(UnreadableVideo, match="Invalid data"):
        index_frames(path)
    path.unlink()
    with pytest.raises(UnreadableVideo, match="No such file"):
        index_frames(path)
    assert len(scans) == 4


@pytest.mark.parametrize("name, codec", [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")])
def test_a_kept_index_is_the_one_that_was_read(tmp_path, name, codec):
    path = make_video(tmp_path / name, codec=codec, options={"g": "12", "bf": "2"})
    read, kept = frame_index._read_index(str(path)), index_frames(path)
    for field in read.__dataclass_fields__:
        assert np.array_equal(getattr(read, field), getattr(kept, field)), field


def test_an_hour_of_video_takes_little_memory():
    stamps = np.arange(90_000) * 512
    is_key = stamps % (12 * 512) == 0
    index = frame_index.FrameIndex(stamps, stamps - 1024, is_key, 1 / 12800, 3600.0, 25.0, False, (False,) * 3, None)
    packed = frame_index._PackedIndex.of(index)
    assert sum(len(data) for data in (packed.steps, packed.delays, packed.is_key)) < 16_000
    assert np.array_equal(packed.unpack().stamps, stamps) and np.array_equal(packed.unpack().is_key, is_key)
    assert frame_index._kept_index.cache_info().maxsize * 16_000 < 100e6


class CountedFrames:
    """An open container that counts the frames taken out of it."""

    def __init__(self, container, frames: list[int]):
        self.container, self.frames = container, frames

    def __getattr__(self, name):
        return getattr(self.container, name)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return self.container.__exit__(*args)

    def decode(self, stream):
        for frame in self.container.decode(stream):
            self.frames[-1] += 1
            yield frame


@pytest.mark.parametrize("name, codec", [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")])
@pytest.mark.parametrize("group", [12, 50])
def test_a_clip_decodes_no_more_than_a_group_and_itself(tmp_path, monkeypatch, name, codec, group):
    options = {"g": str(group), "bf": "0", "sc_threshold": "1000000000"}
    opened = decoders.open_video
    most = {}
    for count in (60, 600):
        path = make_video(tmp_path / f"{count}-{name}", count, codec=codec, options=options, height=16, width=16)
        frames = []
        monkeypatch.setattr(decoders, "open_video", lambda path, frames=frames: CountedFrames(opened(path), frames))
        for seed in range(12):
            frames.append(0)
            ClipReader(8, sample_fps=None).read(path, np.random.default_rng(seed))
        most[count] = max(frames)
    assert max(most.values()) <= group + 8


def test_the_end_of_a_long_file_is_the_right_one(tmp_path):
    path: Path = make_video(tmp_path / "a.mp4", 50, options={"g": "50"})
    assert numbers(ClipReader(3, sample_fps=None).read(path, start=1.88)) == [47, 48, 49]
