"""Decoded videos that a reader keeps in memory."""

import pickle

import numpy as np
import pytest
import torch
from video_files import make_video

from autoencoder.common.errors import UserError
from autoencoder.data import DataConfig, video_io
from autoencoder.data.frame_store import FrameStore
from autoencoder.data.video_io import ClipReader, UnreadableVideo


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Numbers of the frames that are decoded, in order."""
    counts, decode = [], video_io.decode

    def count(decoder, path, index, positions):
        counts.append(len(positions))
        return decode(decoder, path, index, positions)

    monkeypatch.setattr(video_io, "decode", count)
    return counts


@pytest.mark.parametrize("crop", ["center", "random"])
def test_a_file_is_decoded_once_and_gives_the_same_clips(tmp_path, decoded, crop):
    path = make_video(tmp_path / "video.mp4")
    plain, keeping = (ClipReader(8, 32, sample_fps=20.0, crop=crop, keep_mib=mib) for mib in (0, 16))
    for seed in range(5):
        clips = [reader.read(path, np.random.default_rng(seed)) for reader in (plain, keeping)]
        assert torch.equal(*clips)
    assert decoded.count(50) == 1 and len(decoded) == 6


def test_a_file_that_has_changed_is_decoded_again(tmp_path, decoded):
    path, reader = tmp_path / "video.mp4", ClipReader(8, 32, sample_fps=None, keep_mib=16)
    first = reader.read(make_video(path))
    assert not torch.equal(first, reader.read(make_video(path, 40)))
    assert decoded == [50, 40]


def test_large_and_damaged_files_are_read_clip_by_clip(tmp_path, monkeypatch, decoded):
    path = make_video(tmp_path / "video.mp4")
    small = ClipReader(8, 224, keep_mib=16)  # 4 videos of 50 x 224 x 224 x 3 bytes take more
    assert small.read(path).shape == (8, 224, 224, 3) and decoded == [8]
    decode = video_io.decode

    def damaged(decoder, path, index, positions):
        if len(positions) == 50:
            raise UnreadableVideo("damaged in the end")
        return decode(decoder, path, index, positions)

    monkeypatch.setattr(video_io, "decode", damaged)
    reader = ClipReader(8, 32, keep_mib=16)
    assert torch.equal(reader.read(path), ClipReader(8, 32).read(path))


def test_the_videos_read_last_are_kept(tmp_path):
    store, read = FrameStore(400), []
    paths = [tmp_path / str(number) for number in range(6)]

    def video(number: int) -> torch.Tensor:
        paths[number].touch()
        return store.frames(paths[number], 100, lambda: read.append(number) or torch.full((100,), number))

    for number in (0, 1, 2, 3, 0, 4, 0, 1):
        video(number)
    kept = {int(frames[0]) for frames in store._videos.values()}
    assert store.num_bytes <= 400 and len(kept) == len(store._videos)
    assert store.frames(paths[0], 101, list) is None, "of larger ones not even four fit"


def test_a_worker_starts_with_an_empty_store(tmp_path):
    reader = ClipReader(8, 32, keep_mib=16)
    reader.read(make_video(tmp_path / "video.mp4"))
    assert reader._store.num_bytes and not pickle.loads(pickle.dumps(reader))._store.num_bytes


def test_memory_below_zero_is_refused():
    with pytest.raises(UserError, match="keep_mib=-1"):
        ClipReader(8, keep_mib=-1)
    with pytest.raises(UserError, match="keep_decoded must be at least 0, got -1"):
        DataConfig(keep_decoded=-1)
