"""Every kind of broken file that a folder of videos holds: survived, counted and named."""

import os
import shutil
import struct
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from video_files import make_audio, make_video

from autoencoder.data import UnreadableVideo, VideoFolder, frame_index
from autoencoder.data.frame_index import index_frames
from autoencoder.data.stream import FileReport, PositionSampler, TrainingClips, collate

CLIPS = Path(__file__).parents[2] / "shared" / "clips"
READING = {"sample_fps": 8.0, "val_share": 0.0, "crop": "random"}


def patched(source: Path, target: Path, atom: bytes, offset: int, value: bytes, last: bool = False) -> Path:
    """A copy of a file with bytes overwritten, counted from the first (or last) name of an atom or chunk."""
    data = source.read_bytes()
    at = (data.rindex(atom) if last else data.index(atom)) + offset
    target.write_bytes(data[:at] + value + data[at + len(value) :])
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve good videos and one broken file of each kind."""
    root = tmp_path_factory.mktemp("folder")
    good = make_video(root / "good00.mp4", options={"g": "10", "bf": "0"})
    for number in range(1, 12):
        shutil.copy(good, root / f"good{number:02}.mp4")
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("This is no video. " * 100)
    (root / "directory.mp4").mkdir()
    make_audio(root / "audio.mp4")
    (root / "no_table.mp4").write_bytes(good.read_bytes()[:-1500])
    (root / "dangling.mp4").symlink_to(root / "nowhere.mp4")
    os.mkfifo(root / "pipe.mp4")
    shutil.copy(good, root / "locked.mp4")
    # An encoding that nobody knows.
    patched(good, root / "unknown.mp4", b"avc1", 0, b"zzzz", last=True)
    # Frames that last 0 ticks, and a clock of 0 ticks per second: both leave no frame rate to speak of.
    patched(good, root / "frozen.mp4", b"stts", 16, struct.pack(">I", 0))
    patched(good, root / "no_clock.mp4", b"mdhd", 16, struct.pack(">I", 0))
    return root


REASONS = {
    "empty.mp4": "the file is empty",
    "text.mp4": "Invalid data",
    "directory.mp4": "Is a directory",
    "audio.mp4": "no video stream",
    "no_table.mp4": "Invalid data",
    "dangling.mp4": "No such file",
    "pipe.mp4": "neither a file nor a link to one",
    "locked.mp4": "Permission denied",
    "unknown.mp4": "no decoder",
    "frozen.mp4": "same time stamp",
    "no_clock.mp4": "no plausible frame rate",
}


@pytest.fixture
def refused(monkeypatch):
    """root may read everything, so the refusal of locked.mp4 is made up at the call that opens a file."""

    def refuse(path, mode):
        if Path(path).name == "locked.mp4":
            raise PermissionError(13, os.strerror(13), str(path))
        return open(path, mode)

    print("PermissionError is raised at the open call, because root may read every file")
    monkeypatch.setattr(frame_index, "open", refuse, raising=False)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_goes_on_and_names_every_one(folder, refused, num_workers):
    data = VideoFolder(folder, 4, 32, **READING)
    assert len(data) == 12 + len(REASONS)
    clips = TrainingClips(data, seed=0)
    context = "fork" if num_workers else None
    loader = DataLoader(
        clips,
        batch_sampler=PositionSampler(len(clips), len(clips), seed=0),
        num_workers=num_workers,
        collate_fn=collate,
        multiprocessing_context=context,
    )
    report, named = FileReport(len(data), max_bad_share=0.5), []
    for batch in islice(loader, 1):  # one epoch: every file once
        assert batch["sample"]["video"].shape == (len(data), 4, 32, 32, 3)
        named += report.update(batch)
        report.check()
    assert report.tried.all() and len(report.reasons) == len(named) == len(REASONS)
    for index, reason in report.reasons.items():
        name = Path(data.source(index)).name
        assert data.source(index) in reason and REASONS[name] in reason

    report.max_bad_share = 0.4
    with pytest.raises(UnreadableVideo, match=f"{len(REASONS)} of the {len(data)} files tried so far cannot be read"):
        report.check()


def test_a_manifest_may_list_them_all(folder, refused, tmp_path):
    manifest = tmp_path / "list.csv"
    manifest.write_text("path\n" + "".join(f"{folder / name}\n" for name in REASONS))
    data = VideoFolder(manifest, 4, 32, **READING)
    for index, (name, reason) in enumerate(REASONS.items()):
        with pytest.raises(UnreadableVideo, match=reason) as caught:
            data.clip(index)
        assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize("sampling", ["time", "stride"])
@pytest.mark.parametrize("chunk, offset", [(b"strh", 8 + 24), (b"avih", 8)])
def test_a_header_of_zero_frames_per_second(tmp_path, sampling, chunk, offset):
    """AVI states the rate twice; whatever is zero, the clip is the right one or the file is refused by name."""
    good = make_video(tmp_path / "good.avi", codec="mpeg4")
    data = VideoFolder(tmp_path, 4, 32, sampling=sampling, **READING)
    expected = data.clip(0)
    good.unlink()
    make_video(tmp_path / "source.avi", codec="mpeg4")
    patched(tmp_path / "source.avi", good, chunk, offset, bytes(4))
    (tmp_path / "source.avi").unlink()
    assert index_frames(good).fps is None or index_frames(good).fps > 0
    try:
        assert torch.equal(data.clip(0), expected)
    except UnreadableVideo as error:
        assert "good.avi" in str(error)


def test_only_empty_folders_with_the_name_of_a_video_are_listed(tmp_path):
    """A data set may keep each video in a folder of the video's name."""
    make_video(tmp_path / "clip.mp4" / "clip.mp4", count=4)
    (tmp_path / "gone.mp4").mkdir()
    (tmp_path / "notes").mkdir()
    data = VideoFolder(tmp_path, 4, 32, **READING)
    assert [Path(data.source(i)).relative_to(tmp_path).as_posix() for i in range(2)] == [
        "clip.mp4/clip.mp4",
        "gone.mp4",
    ]


def test_tags_in_another_encoding_do_no_harm(tmp_path):
    """Old files carry Latin-1 in their tags."""
    good = make_video(tmp_path / "video.mkv")
    data = VideoFolder(tmp_path, 4, 32, **READING)
    expected = data.clip(0)
    patched(good, good, b"ENCODER", 0, b"\xe9NCOD\xc9R")
    assert torch.equal(data.clip(0), expected)
    assert data.too_short() == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name, codec", [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")])
def test_whatever_bytes_are_wrong_the_file_is_named(tmp_path, name, codec, seed):
    whole = make_video(tmp_path / name, 20, codec=codec).read_bytes()
    rng = np.random.default_rng(seed)
    data = VideoFolder(tmp_path, 4, 32, **READING)
    refused = 0
    for _ in range(12):
        bytes_ = np.frombuffer(whole, dtype=np.uint8).copy()
        for first, last in ((0, 600), (len(whole) - 1200, len(whole)), (0, len(whole))):
            bytes_[rng.integers(first, last, 3)] = rng.integers(256, size=3)
        (tmp_path / name).write_bytes(bytes_[: rng.integers(len(whole) // 2, 2 * len(whole))].tobytes())
        try:
            assert data.clip(0, rng).shape == (4, 32, 32, 3)
        except UnreadableVideo as error:
            refused += name in str(error)
    assert refused


@pytest.mark.parametrize("num_workers", [0, 1])
def test_nothing_but_broken_files_stops_with_a_name(folder, tmp_path, num_workers):
    for name in ("empty.mp4", "text.mp4", "audio.mp4"):
        shutil.copy(folder / name, tmp_path / name)
    clips = TrainingClips(VideoFolder(tmp_path, 4, 32, **READING), seed=0)
    loader = DataLoader(clips, batch_sampler=PositionSampler(3, 1, seed=0), num_workers=num_workers, collate_fn=collate)
    with pytest.raises(UnreadableVideo, match=r"files in a row could not be read, the last one: .*\.mp4"):
        next(iter(loader))


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"{CLIPS} is absent")
def test_broken_files_of_real_life():
    data = VideoFolder(CLIPS / "broken", 16, 32, **READING)
    reasons = {}
    for index in range(len(data)):
        with pytest.raises(UnreadableVideo) as caught:
            data.clip(index)
        assert data.source(index) in str(caught.value)
        reasons[Path(data.source(index)).name] = str(caught.value)
    assert "too short" in reasons.pop("four_frames.mov") and "too short" in reasons.pop("rotated_90.mov")
    assert list(reasons) == ["corrupted.mp4"]
