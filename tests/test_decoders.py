"""That the choice of the decoder changes no pixel: decord gives those of PyAV, or refuses the file."""

import builtins
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from video_files import make_ucf101, make_video, numbers

from autoencoder.data import DataConfig, decoders
from autoencoder.data.video_io import ClipReader, UnreadableVideo

CLIPS = Path(__file__).parents[2] / "shared" / "clips"
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"{CLIPS} is absent")
needs_decord = pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="decord is not installed")


def draw(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """50 frames, 25 per second, key frames every 10, large enough for decord."""
    return make_video(tmp_path_factory.mktemp("video") / "numbered.mp4", height=192, width=256)


@needs_decord
def test_decoders_agree(video):
    for seed in range(4):
        one, other = (ClipReader(6, decoder=name).read(video, draw(seed)) for name in ("pyav", "decord"))
        assert torch.equal(one, other)


@needs_decord
@needs_clips
@pytest.mark.parametrize("name", ["bikes.mp4", "arm_wrestling.mp4", "broken/rotated_90.mov"])
def test_decoders_agree_on_real_video(name):
    one, other = (ClipReader(3, sample_fps=None, decoder=d).read(CLIPS / name, draw(0)) for d in ("pyav", "decord"))
    assert torch.equal(one, other)


@needs_decord
@pytest.mark.parametrize(
    "name, codec, options, side, obstacle",
    [
        ("closed.mp4", "libx264", {"g": "10", "bf": "3"}, 192, None),
        ("closed.mkv", "libx264", {"g": "10", "bf": "3"}, 192, None),
        ("plain.avi", "mpeg4", {"g": "10"}, 192, None),
        ("plain.webm", "libvpx", {"g": "10"}, 192, None),
        ("small.mp4", "libx264", {"g": "10"}, 176, None),
        ("narrow.mp4", "libx264", {"g": "10"}, 48, "a fourth colour"),
        ("b_frames.avi", "mpeg4", {"bf": "2", "g": "12", "flags": "+cgop", "sc_threshold": "1000000000"}, 192, "AVI"),
        ("open_gop.avi", "mpeg4", {"bf": "2", "g": "12"}, 192, "after a key frame are shown before"),
        ("stream.ts", "libx264", {"g": "10"}, 192, "it is a mpegts file"),
        ("old.mp4", "mpeg2video", {"g": "10"}, 192, "its codec is mpeg2video"),
        (
            "open_gop.mp4",
            "libx264",
            {"x264-params": "keyint=4:bframes=3:open-gop=1:scenecut=0:b-adapt=0"},
            192,
            "after a key frame are shown before",
        ),
    ],
)
def test_decord_reads_the_right_frames_or_refuses(tmp_path, name, codec, options, side, obstacle):
    path = make_video(tmp_path / name, codec=codec, options=options, height=side, width=side)
    if obstacle:
        with pytest.raises(UnreadableVideo, match=f"{obstacle}.*decoder='pyav'"):
            ClipReader(3, decoder="decord").read(path)
    for seed in range(6):
        clips = [ClipReader(3, sample_fps=None).read(path, draw(seed))]
        if obstacle is None:
            clips.append(ClipReader(3, sample_fps=None, decoder="decord").read(path, draw(seed)))
        assert np.diff(numbers(clips[0])).tolist() == [1, 1]
        assert all(torch.equal(clip, clips[0]) for clip in clips)


def test_no_decord(video, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    assert len(ClipReader(2).read(video)) == 2
    with pytest.raises(ValueError, match="not installed"):
        ClipReader(2, decoder="decord")


def test_a_decord_that_does_not_load_is_none(monkeypatch):
    def broken(name):
        raise OSError("libavcodec.so.58: cannot open shared object file")

    monkeypatch.setattr(decoders.importlib, "import_module", broken)
    with pytest.raises(ValueError, match="does not load"):
        ClipReader(2, decoder="decord")


def test_data_sets_pass_the_decoder_on(tmp_path):
    make_ucf101(tmp_path, ["A/v_A_g01_c01.avi", "A/v_A_g02_c01.avi"], ["A"], test=["A/v_A_g02_c01.avi"])
    for dataset in ("ucf101", "folder"):
        config = DataConfig(dataset=dataset, data_root=str(tmp_path), decoder="pyav")
        assert {config.build(split, 4, 32).reader.decoder for split in ("train", "val")} == {"pyav"}
    assert DataConfig().decoder == ClipReader(4).decoder == "auto"


@needs_decord
@pytest.mark.parametrize(
    "name", ["DECORDError", "DECORDLimitReachedError", "RuntimeError", "IndexError", "TypeError", "OSError"]
)
def test_what_decord_fails_at_is_unreadable(video, monkeypatch, name):
    import decord

    def fail(*args, **kwargs):
        raise getattr(decord, name, getattr(builtins, name, None))("cannot decode")

    monkeypatch.setattr(decord, "VideoReader", fail)
    with pytest.raises(UnreadableVideo, match="numbered.mp4: decord: cannot decode"):
        ClipReader(2, decoder="decord").read(video)


@needs_clips
def test_corrupted_file():
    """It claims 50 frames, 28 decode; a clip is right or refused, the same each time."""
    path = CLIPS / "broken/corrupted.mp4"
    reader = ClipReader(16, sample_fps=None)
    good = ClipReader(28, sample_fps=None).read(path, end=2.8)

    def verdict(seed: int) -> int | None:
        try:
            clip = reader.read(path, draw(seed))
        except UnreadableVideo as error:
            assert "corrupted.mp4" in str(error)
            return None
        return next(i for i in range(13) if torch.equal(clip, good[i : i + 16]))

    verdicts = [verdict(seed) for seed in range(12)]
    assert None in verdicts and set(verdicts) != {None}
    assert verdicts == [verdict(seed) for seed in range(12)]
