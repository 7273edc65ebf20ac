"""Files of every kind that FFmpeg reads: the right frames, from every start, and a length."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from video_files import HEIGHT, WIDTH, make_video, numbered_frames, numbers

from autoencoder.data.frame_index import UnreadableVideo, index_frames, video_length
from autoencoder.data.video_io import ClipReader
from autoencoder.whole_videos.video_file import open_file

FAULTS = Path(__file__).parents[2] / "shared" / "faults" / "videos"
UCF101 = Path(__file__).parents[2] / "shared" / "ucf101_mini"
EVERY_TENTH_IS_KEY = {"g": "10"}  # options of an encoder

FORMATS = [
    ("a.webm", "libvpx-vp9", {"g": "10", "deadline": "realtime", "cpu-used": "8"}),
    ("av1.mkv", "libsvtav1", {"preset": "12", "svtav1-params": "keyint=10"}),
    ("av1.mp4", "libsvtav1", {"preset": "12", "svtav1-params": "keyint=10"}),
    ("hevc.mp4", "libx265", {"preset": "ultrafast", "x265-params": "keyint=10:log-level=0"}),
    ("a.ts", "libx264", EVERY_TENTH_IS_KEY),
    ("a.mts", "libx264", EVERY_TENTH_IS_KEY),
    ("a.m2ts", "mpeg2video", EVERY_TENTH_IS_KEY),
    ("a.mpg", "mpeg2video", EVERY_TENTH_IS_KEY),
    ("a.mpeg", "mpeg1video", EVERY_TENTH_IS_KEY),
    ("a.vob", "mpeg2video", EVERY_TENTH_IS_KEY),
    ("a.wmv", "wmv2", EVERY_TENTH_IS_KEY),
    ("a.asf", "msmpeg4", EVERY_TENTH_IS_KEY),
    ("a.flv", "flv", EVERY_TENTH_IS_KEY),
    ("a.3gp", "mpeg4", EVERY_TENTH_IS_KEY),
    ("a.3g2", "mpeg4", EVERY_TENTH_IS_KEY),
    ("a.mxf", "mpeg2video", EVERY_TENTH_IS_KEY),
    ("a.y4m", "rawvideo", {}),
    ("a.nut", "ffv1", {}),
    ("a.m2v", "mpeg2video", EVERY_TENTH_IS_KEY),
    ("a.ogv", "libvpx", EVERY_TENTH_IS_KEY),
]


@pytest.mark.parametrize("name, codec, options", FORMATS)
def test_every_format_gives_the_right_frames_from_every_start(tmp_path, name, codec, options):
    side = {"height": 192, "width": 256} if codec == "libsvtav1" else {}  # its encoder refuses smaller ones
    path = make_video(tmp_path / name, codec=codec, options=options, **side)
    assert numbers(ClipReader(50, sample_fps=None).read(path)) == list(range(50))
    for seed in range(8):
        got = numbers(ClipReader(3, sample_fps=None).read(path, np.random.default_rng(seed)))
        assert np.diff(got).tolist() == [1, 1]
    seconds, fps = video_length(path)
    assert seconds == pytest.approx(2.0, abs=0.1) and fps == pytest.approx(25, abs=0.01)
    assert sum(1 for _ in open_file(path).frames()) == 50


def test_a_length_that_no_header_states_is_that_of_the_packets(tmp_path):
    """As browsers write what they record, and as a live stream is saved."""
    for name, container, options in (
        ("a.webm", "webm", {"live": "1"}),
        ("a.mp4", "mp4", {"movflags": "empty_moov+frag_keyframe"}),
    ):
        path = tmp_path / name
        with av.open(str(path), "w", format=container, options=options) as file:
            stream = file.add_stream("libvpx-vp9" if name == "a.webm" else "libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for picture in numbered_frames(30):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode(None))
        assert video_length(path)[0] == pytest.approx(1.2, abs=0.05)
        assert not ClipReader(30, sample_fps=None).is_too_short(path)
        assert numbers(ClipReader(30, sample_fps=None).read(path)) == list(range(30))


def gif(path: Path, count: int) -> Path:
    frames = numbered_frames(count)
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    return path


def test_gifs(tmp_path):
    moving = gif(tmp_path / "a.gif", 20)
    assert numbers(ClipReader(3, sample_fps=None).read(moving, start=0.4)) == [13, 14, 15]
    with pytest.raises(UnreadableVideo, match=r"b.gif: too short.*\(1 frames\)"):
        ClipReader(2).read(gif(tmp_path / "b.gif", 1))


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "tiff"])
def test_a_picture_is_called_one(tmp_path, kind):
    path = tmp_path / "video.mp4"
    Image.fromarray(numbered_frames(1)[0]).save(path, format=kind)
    for read in (ClipReader(1, sample_fps=None).read, ClipReader(2).is_too_short, open_file, index_frames):
        with pytest.raises(UnreadableVideo, match="video.mp4: it is a single picture .*, not a video"):
            read(path)


@pytest.mark.skipif(not FAULTS.is_dir(), reason=f"{FAULTS} is absent")
@pytest.mark.parametrize("name", ["av1.mp4", "av1.mkv", "no_duration.webm", "animation.gif", "ten_bit.mp4"])
def test_files_that_were_called_unreadable_or_shown_otherwise(name):
    path = FAULTS / name
    rng = np.random.default_rng
    assert torch.equal(*(ClipReader(4, 32, decoder=d).read(path, rng(0)) for d in ("auto", "pyav")))
    assert video_length(path)[0] == pytest.approx(3.0, abs=0.05)


@pytest.mark.skipif(not UCF101.is_dir(), reason=f"{UCF101} is absent")
@pytest.mark.parametrize("video", ["ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01", "Archery/v_Archery_g03_c03"])
def test_packed_frames_of_xvid_come_in_their_order(video):
    """Two frames in one packet, then one that is empty: the demuxer guesses the times of display wrong."""
    path = UCF101 / "UCF-101" / f"{video}.avi"
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    clip = ClipReader(len(expected), sample_fps=None).read(path)
    assert np.array_equal(clip.numpy(), np.stack(expected))
    assert torch.equal(ClipReader(3, sample_fps=None).read(path, start=2.0, end=2.121), clip[50:53])
    assert sum(1 for _ in open_file(path).frames()) == len(expected)
