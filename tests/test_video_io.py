import dataclasses
import importlib.util
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from video_files import cut_without_encoding, make_audio, make_video, numbered_frames, numbers, turn_quarter

from autoencoder.common import files
from autoencoder.data import frame_index, video_io
from autoencoder.data.video_io import (
    ClipReader,
    UnreadableVideo,
    index_frames,
    open_mp4,
    resize_and_crop,
    write_video,
)
from autoencoder.whole_videos.video_file import open_file

WRITTEN = ("mp4", "gif", "webp")
CLIPS = Path(__file__).parents[2] / "shared" / "clips"
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"{CLIPS} is absent")
needs_decord = pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="decord is not installed")


def draw(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """50 frames, 25 per second, key frames every 10, large enough for decord."""
    return make_video(tmp_path_factory.mktemp("video") / "numbered.mp4", height=192, width=256)


@pytest.fixture(scope="module")
def variable(tmp_path_factory) -> Path:
    """20 frames at 10 per second, then 20 at 40 per second, in whole milliseconds."""
    stamps = [*range(0, 2000, 100), *range(2000, 2500, 25)]
    return make_video(tmp_path_factory.mktemp("video") / "variable.mkv", 40, milliseconds=stamps)


# sampling


def test_time_takes_the_frame_shown_at_each_time(video):
    got = numbers(ClipReader(8, sample_fps=8.0).read(video))
    steps = np.array(got) - got[0]
    assert steps.tolist() == [int(25 * k / 8) for k in range(8)]
    assert abs((got[0] + got[-1]) / 2 - 24.5) <= 1, "without a generator the clip is the middle of the video"
    first = numbers(ClipReader(8, sample_fps=8.0, unseeded="first").read(video, start=0.2))
    assert first == [5 + step for step in steps]


def test_stride_takes_every_nth_frame(video):
    assert np.diff(numbers(ClipReader(8, sample_fps=8.0, sampling="stride").read(video))).tolist() == [3] * 7
    assert np.diff(numbers(ClipReader(8, sample_fps=60.0, sampling="stride").read(video))).tolist() == [1] * 7


@pytest.mark.parametrize("sampling", ["time", "stride"])
@pytest.mark.parametrize("sample_fps", [None, 25.0])
def test_every_frame(video, sampling, sample_fps):
    clip = ClipReader(50, sample_fps=sample_fps, sampling=sampling).read(video)
    assert clip.shape == (50, 192, 256, 3) and clip.dtype == torch.uint8
    assert numbers(clip) == list(range(50))


def test_faster_sampling_shows_a_frame_as_long_as_it_lasts(video):
    got = numbers(ClipReader(8, sample_fps=50.0).read(video))
    assert [n - got[0] for n in got] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_variable_frame_rate_goes_by_time_stamps(variable):
    clip = ClipReader(23, sample_fps=10.0).read(variable, end=2.25)
    assert numbers(clip) == [*range(20), 20, 24, 28]


def test_rounded_time_stamps_neither_repeat_nor_skip(tmp_path):
    """Matroska keeps milliseconds: 0, 33, 67, 100 at 30 frames per second."""
    path = make_video(tmp_path / "video.mkv", 50, fps=30)
    for seed in range(5):
        assert set(np.diff(numbers(ClipReader(30, sample_fps=30.0).read(path, draw(seed))))) == {1}


@pytest.mark.parametrize("sampling", ["time", "stride"])
def test_window(video, sampling):
    reader = ClipReader(5, sample_fps=12.5, sampling=sampling)
    for seed in range(20):
        got = numbers(reader.read(video, draw(seed), start=0.8, end=1.4))
        assert got[0] >= 20 and got[-1] < 35 and np.diff(got).tolist() == [2] * 4
    assert numbers(reader.read(video, start=0.8, end=1.16)) == [20, 22, 24, 26, 28]
    with pytest.raises(UnreadableVideo, match="too short"):
        reader.read(video, start=0.8, end=1.12)


def test_draws_are_a_function_of_the_generator(video):
    reader = ClipReader(4, size=32, crop="random")
    clips = [reader.read(video, draw(seed)) for seed in range(6)]
    assert all(torch.equal(clip, reader.read(video, draw(seed))) for seed, clip in enumerate(clips))
    assert len({clip.numpy().tobytes() for clip in clips}) > 3


def test_every_start_can_be_drawn(video):
    reader = ClipReader(47, sample_fps=None)
    assert {numbers(reader.read(video, draw(seed)))[0] for seed in range(30)} == {0, 1, 2, 3}


@pytest.mark.parametrize("sampling, needed", [("time", "1.875 s"), ("stride", "46 frames")])
def test_too_short_names_both_lengths(tmp_path, sampling, needed):
    reader = ClipReader(16, sample_fps=8.0, sampling=sampling)
    enough = 47 if sampling == "time" else 46
    path = make_video(tmp_path / "enough.mp4", enough)
    assert reader.read(path).shape[0] == 16 and not reader.is_too_short(path)
    path = make_video(tmp_path / "short.mp4", enough - 1)
    assert reader.is_too_short(path)
    with pytest.raises(UnreadableVideo, match=rf"short.mp4: too short.*{needed}.*{(enough - 1) / 25:.3f} s"):
        reader.read(path)


# containers and decoders


@pytest.mark.parametrize(
    "name, codec, options",
    [
        ("b_frames.avi", "mpeg4", {"bf": "2", "g": "3"}),
        ("plain.avi", "mpeg4", {"g": "10"}),
        ("open_gop.mp4", "libx264", {"x264-params": "keyint=4:bframes=3:open-gop=1:scenecut=0:b-adapt=0"}),
        ("b_frames.mkv", "libx264", {"g": "10", "bf": "3"}),
    ],
)
def test_seeking_is_exact(tmp_path, name, codec, options):
    path = make_video(tmp_path / name, codec=codec, options=options)
    firsts = []
    for seed in range(12):
        got = numbers(ClipReader(3, sample_fps=None).read(path, draw(seed)))
        assert np.diff(got).tolist() == [1, 1]
        firsts.append(got[0])
    assert max(firsts) - min(firsts) > 20


def test_guessed_time_stamps_are_refused(tmp_path):
    """AVI stores no time of display; for H.264 with B-frames the demuxer's guess is wrong."""
    path = make_video(tmp_path / "video.avi", options={"g": "10", "bf": "3"}, height=192, width=192)
    for seed in range(8):
        with pytest.raises(UnreadableVideo, match="do not follow the order|do not decode"):
            ClipReader(4, sample_fps=None).read(path, draw(seed))


def test_cut_without_encoding_shows_what_a_player_shows(video, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut_without_encoding(video, cut, key=10, first=17)
    index = index_frames(cut)
    assert "not shown" in index.decord_obstacle and index.times[0] == 0
    assert numbers(ClipReader(33, sample_fps=None).read(cut)) == list(range(17, 50))


@pytest.mark.parametrize("decoder", ["pyav", pytest.param("decord", marks=needs_decord)])
def test_rotation_flag_is_obeyed(video, tmp_path, decoder):
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(video.read_bytes())
    turn_quarter(turned)
    reader = ClipReader(2, decoder=decoder)
    expected = torch.from_numpy(np.rot90(reader.read(video).numpy(), -1, axes=(1, 2)).copy())
    assert torch.equal(reader.read(turned), expected)


@needs_clips
def test_rotation_flag_of_a_phone():
    assert ClipReader(3, sample_fps=None).read(CLIPS / "broken/rotated_90.mov").shape == (3, 568, 320, 3)


class Clips(torch.utils.data.Dataset):
    def __init__(self, path: Path):
        self.path, self.reader = path, ClipReader(4, size=32, crop="random")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.reader.read(self.path, draw(index))


def test_forked_workers_read_the_same(video):
    alone, forked = (
        torch.cat(list(DataLoader(Clips(video), num_workers=n, multiprocessing_context="fork" if n else None)))
        for n in (0, 2)
    )
    assert torch.equal(alone, forked)


# bad files


def test_bad_files_are_named_with_the_reason(video, tmp_path, monkeypatch):
    empty, text, audio, cut = (tmp_path / name for name in ("empty.mp4", "text.mp4", "audio.mp4", "cut.mp4"))
    empty.touch()
    text.write_text("This is no video. " * 100)
    make_audio(audio)
    cut.write_bytes(video.read_bytes()[:-2000])  # without its table of contents
    cases = {
        tmp_path / "none.mp4": "No such file",
        tmp_path: "directory",
        empty: "is empty",
        text: "Invalid data",
        audio: "no video stream",
        cut: "Invalid data",
    }
    for path, reason in cases.items():
        for read in (ClipReader(2).read, ClipReader(2).is_too_short):
            with pytest.raises(UnreadableVideo, match=reason) as caught:
                read(path)
            assert str(path) in str(caught.value)

    def refuse(path, mode):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(frame_index, "open", refuse, raising=False)
    with pytest.raises(UnreadableVideo, match="Permission denied"):
        ClipReader(2).read(video)


def test_no_frame_rate(video, monkeypatch):
    index = dataclasses.replace(index_frames(video), fps=None)
    monkeypatch.setattr(video_io, "index_frames", lambda path: index)
    assert len(ClipReader(4).read(video)) == 4, "time stamps are enough"
    with pytest.raises(UnreadableVideo, match="no frame rate"):
        ClipReader(4, sampling="stride").read(video)


def damage(path: Path, frame: int, offset: int, bytes_: bytes) -> None:
    """Overwrite a part of the packet of a frame."""
    with video_io.av.open(str(path)) as container:
        at = offset + next(p.pos for p in container.demux(video=0) if p.pts == frame * p.duration)
    data = path.read_bytes()
    path.write_bytes(data[:at] + bytes_ + data[at + len(bytes_) :])


def test_damage_that_pyav_flags(tmp_path):
    """Inside one whole packet, so that only decoding shows it: the case for decoder="pyav"."""
    noise = draw(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    path = tmp_path / "video.mp4"
    write_video(path, noise, 8)
    whole = ClipReader(12, sample_fps=None).read(path)
    damage(path, 8, 1000, draw(1).bytes(200))
    assert torch.equal(ClipReader(3, sample_fps=None, decoder="pyav").read(path, end=0.5), whole[:3])
    with pytest.raises(UnreadableVideo, match="damaged"):
        ClipReader(12, sample_fps=None, decoder="pyav").read(path)


def test_damage_raises_and_spares_the_rest(tmp_path):
    """Key frames every 10 frames: damage in one group of frames leaves the others as they were."""
    path = make_video(tmp_path / "video.mp4", height=192, width=256)
    reader = ClipReader(3, sample_fps=None)
    damage(path, 20, 0, bytes(60))
    assert "do not add up" in index_frames(path).decord_obstacle
    assert numbers(reader.read(path, start=0.0, end=0.4)) == [3, 4, 5]
    assert numbers(reader.read(path, start=1.2, end=1.6)) == [33, 34, 35]
    with pytest.raises(UnreadableVideo, match="video.mp4"):
        reader.read(path, start=0.8, end=1.2)


def test_truncated_file_serves_its_whole_part_only(tmp_path):
    path = make_video(tmp_path / "video.mkv", height=192, width=256)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert "its end is missing" in index_frames(path).decord_obstacle
    for seed in range(10):
        assert np.diff(numbers(ClipReader(3, sample_fps=None).read(path, draw(seed)))).tolist() == [1, 1]
    with pytest.raises(UnreadableVideo, match="too short"):
        ClipReader(45, sample_fps=None).read(path)


@needs_clips
def test_shorter_than_a_clip():
    with pytest.raises(UnreadableVideo, match="four_frames.mov: too short"):
        ClipReader(16, sample_fps=None).read(CLIPS / "broken/four_frames.mov")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_frames": 0}, "num_frames=0"),
        ({"size": 0}, "size=0"),
        ({"sample_fps": 0.0}, "sample_fps=0.0"),
        ({"sampling": "frames"}, "'frames' is none of time, stride"),
        ({"crop": "centre"}, "'centre' is none of center, random"),
        ({"decoder": "opencv"}, "'opencv' is none of auto, pyav, decord"),
        ({"unseeded": "last"}, "'last' is none of middle, first"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        ClipReader(**{"num_frames": 16, **options})


# resizing, cropping, writing


def test_resize_and_crop():
    frames = torch.zeros(2, 40, 60, 3, dtype=torch.uint8)
    frames[:, :, 10:50] = 200  # the central square
    assert (resize_and_crop(frames, 40) == 200).all()
    assert resize_and_crop(frames, 20).shape == resize_and_crop(frames.transpose(1, 2), 20).shape == (2, 20, 20, 3)
    fine = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    fine[:, :, 1::4] = fine[:, :, 2::4] = 255
    middle = resize_and_crop(fine, 16)[:, :, 2:-2]
    assert ((middle.int() - 127).abs() < 8).all(), "stripes finer than a pixel turn grey"

    columns = torch.arange(60, dtype=torch.uint8)[None, None, :, None].expand(2, 40, 60, 3)
    lefts = {int(resize_and_crop(columns, 40, "random", draw(seed))[0, 0, 0, 0]) for seed in range(100)}
    assert min(lefts) < 3 and max(lefts) > 17 and max(lefts) <= 20
    assert torch.equal(resize_and_crop(columns, 40, "random"), resize_and_crop(columns, 40))


def test_write_video(tmp_path):
    frames = numbered_frames(10)
    path = tmp_path / "new" / "video.mp4"
    write_video(path, torch.from_numpy(frames), fps=29.97)
    clip = ClipReader(10, sample_fps=None).read(path)
    assert np.abs(clip.numpy().astype(int) - frames).mean() < 2
    assert index_frames(path).fps == pytest.approx(29.97)
    assert [p.name for p in path.parent.iterdir()] == ["video.mp4"]


@pytest.mark.parametrize(
    "name, shape, fps, message",
    [
        ("a.avi", (2, 16, 16, 3), 8, "must end in .mp4"),
        ("a.mp4", (2, 15, 16, 3), 8, "16 wide and 15 high"),
        ("a.mp4", (0, 16, 16, 3), 8, r"\(0, 16, 16, 3\)"),
        ("a.mp4", (2, 3, 16, 16), 8, r"\(2, 3, 16, 16\)"),
        ("a.mp4", (2, 16, 16, 3), 0, "fps=0"),
        *((f"a.{ending}", (2, 16, 16, 3), 1e-3, r"fps=0.001: must be positive, from 0.01") for ending in WRITTEN),
        *((f"a.{ending}", (2, 16, 16, 3), 1e6, r"fps=1000000.0: .* to 1000 frames per second") for ending in WRITTEN),
        ("a.gif", (2, 16, 16, 3), 60, "a GIF shows at most 50 frames per second"),
    ],
)
def test_write_video_refuses(tmp_path, name, shape, fps, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / name, np.zeros(shape, dtype=np.uint8), fps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [0.01, 12.5, 50])
@pytest.mark.parametrize("ending", WRITTEN)
def test_a_rate_is_kept(tmp_path, ending, fps):
    path = tmp_path / f"video.{ending}"
    write_video(path, numbered_frames(3), fps)
    if ending == "mp4":
        assert open_file(path).format.rate == Fraction(fps).limit_denominator(1001)
        return
    with Image.open(path) as picture:
        for index in range(3):
            picture.seek(index)
            picture.load()
            assert picture.info["duration"] == 1000 / fps


@pytest.mark.parametrize("form", ["float", "bfloat16", "channels first", "images", "list of arrays"])
def test_write_video_takes_what_a_pipeline_returns(tmp_path, form):
    frames = numbered_frames(10)
    forms = {
        "float": frames.astype(np.float32) / 255,
        "bfloat16": torch.from_numpy(frames).bfloat16() / 255,
        "channels first": torch.from_numpy(frames).permute(0, 3, 1, 2) / 255,
        "images": [Image.fromarray(frame) for frame in frames],
        "list of arrays": list(frames / 255),
    }
    write_video(tmp_path / "video.mp4", forms[form], 8)
    clip = ClipReader(10, sample_fps=None).read(tmp_path / "video.mp4")
    assert np.abs(clip.numpy().astype(int) - frames).mean() < 2
    write_video(tmp_path / "video.gif", forms[form], 8)
    with Image.open(tmp_path / "video.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (10, frames.shape[2:0:-1], 120)


@pytest.mark.parametrize(
    "frames, message",
    [
        (np.full((2, 16, 16, 3), 255.0), r"must be in \[0, 1\], got 255 to 255"),
        (np.full((2, 16, 16, 3), np.nan), r"must be in \[0, 1\], got nan"),
        (np.zeros((2, 16, 16, 3), dtype=np.int64), r"got int64 \(2, 16, 16, 3\)"),
        (torch.zeros(1, 2, 16, 16, 3), r"got float32 \(1, 2, 16, 16, 3\)"),
        ([], r"got float64 \(0,\)"),
        ([np.zeros((16, 16, 3)), np.zeros((8, 8, 3))], "one size"),
    ],
)
def test_write_video_refuses_what_is_no_video(tmp_path, frames, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "a.mp4", frames, 8)
    assert not list(tmp_path.iterdir())


def test_pieces_of_an_mp4_are_the_file_of_all_frames(tmp_path):
    frames = numbered_frames(50)
    write_video(tmp_path / "whole.mp4", frames, 8)
    with open_mp4(tmp_path / "pieces.mp4", 8) as write:
        for start in range(0, 50, 7):
            write(frames[start : start + 7])
    assert (tmp_path / "pieces.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_an_mp4_in_pieces_is_whole_or_not_there(tmp_path):
    message = r"of \(16, 16\) pixels, height and width, cannot go on with \(18, 16\)"
    with pytest.raises(ValueError, match=message), open_mp4(tmp_path / "video.mp4", 8) as write:
        write(np.zeros((2, 16, 16, 3), dtype=np.uint8))
        write(np.zeros((2, 18, 16, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="fps=0: must be positive"), open_mp4(tmp_path / "video.mp4", 0):
        pass
    assert not list(tmp_path.iterdir())


def test_write_video_leaves_nothing_half_done(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_video(tmp_path / "video.mp4", numbered_frames(2), 8)
    assert not list(tmp_path.iterdir())
