"""That the choice of the decoder changes no pixel: decord gives those of PyAV, or refuses the file."""

import builtins
import importlib.util
import sys
from pathlib import Path

import av
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
            ClipReader(3, sample_fps=None, decoder="decord").read(path)
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


COLOURS = [  # codec, pixel format, colour matrix (1 is BT.709), range (2 is full), width, height, why decord refuses
    ("libx264", "yuv420p", 1, 1, 256, 192, None),
    ("libx264", "yuvj420p", 6, 2, 256, 192, None),
    ("libx264", "yuv422p", 9, 1, 256, 192, None),
    ("libx264", "yuv444p", 1, 2, 256, 192, None),
    ("libx265", "yuv420p", 1, 2, 256, 192, None),
    ("libx264", "yuv420p10le", 1, 1, 256, 192, "pixel format is yuv420p10le"),
    ("libx265", "yuv422p12le", 1, 1, 256, 192, "pixel format is yuv422p12le"),
    ("libx265", "gray10le", 2, 1, 256, 192, "pixel format is gray10le"),
    ("libx264rgb", "rgb24", 0, 2, 256, 192, "pixel format is gbrp"),
    ("ffv1", "yuva420p", 2, 1, 256, 192, "codec is ffv1"),
    ("prores_ks", "yuv422p10le", 1, 1, 256, 192, "codec is prores"),
    ("mjpeg", "yuvj422p", 5, 2, 200, 101, "a side of its picture is odd"),
]


@needs_decord
@pytest.mark.parametrize("codec, pixel_format, matrix, full, width, height, obstacle", COLOURS)
def test_colours_are_those_of_pyav_or_refused(tmp_path, codec, pixel_format, matrix, full, width, height, obstacle):
    path = tmp_path / ("video.mov" if codec in ("prores_ks", "mjpeg") else "video.mkv")
    picture = draw(0).integers(0, 256, (height // 8 + 1, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"x265-params": "log-level=0"} if "265" in codec else {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, full
        for shift in range(4):
            frame = av.VideoFrame.from_ndarray(np.roll(picture[:height], 8 * shift, 1), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode(None))
    by_auto, by_pyav = (ClipReader(3, sample_fps=None, decoder=name).read(path, draw(0)) for name in ("auto", "pyav"))
    assert torch.equal(by_auto, by_pyav)
    if obstacle is None:
        assert torch.equal(ClipReader(3, sample_fps=None, decoder="decord").read(path, draw(0)), by_pyav)
    else:
        with pytest.raises(UnreadableVideo, match=obstacle):
            ClipReader(3, sample_fps=None, decoder="decord").read(path)
