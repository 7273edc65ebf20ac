"""Reconstruction of whole videos: any size, length, rate and rotation in, the same out."""

import weakref
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from tiny_models import tiny_vae
from video_files import make_audio, make_video, numbered_frames, turn_quarter

from autoencoder import AutoencoderVidTwin
from autoencoder import reconstruct as command
from autoencoder.data import UnreadableVideo
from autoencoder.whole_videos import reconstruction
from autoencoder.whole_videos.clips import Fit, chosen_overlap, cut, decode_frames, encode_frames, join
from autoencoder.whole_videos.video_file import VideoFormat, open_file, open_writer
from benchmarks import joins as joins_command
from benchmarks.work import joins

CLIPS = Path(__file__).parents[2] / "shared" / "clips"
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"{CLIPS} is absent")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A model of 4 frames of 16 x 16 pixels whose answer depends on its input."""
    torch.manual_seed(0)
    model = tiny_vae()
    for parameter in model.decoder.proj_out.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint) -> AutoencoderVidTwin:
    return AutoencoderVidTwin.from_pretrained(checkpoint)


def write(path: Path, count: int, height: int, width: int, rate: Fraction = Fraction(25), **kwargs) -> Path:
    with open_writer(path, VideoFormat(width, height, rate, 1 / rate), **kwargs) as writer:
        for stamp, pixels in enumerate(numbered_frames(count, height, width)):
            writer.write(pixels, stamp, 1)
    return path


def add_sound(path: Path, target: Path, codec: str = "aac", seconds: float = 1.0) -> Path:
    """The video with a sound track of its own length."""
    sound = path.with_name("sound.mkv")
    with av.open(str(sound), "w") as container:
        stream = container.add_stream(codec, rate=8000, layout="mono")
        for start in range(0, int(8000 * seconds), 1000):
            samples = (np.sin(np.arange(start, start + 1000) / 5) * 9000).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = open_file(path)
    with open_writer(target, video.format, audio_of=sound) as writer:
        for frame in video.frames():
            writer.write(*frame)
    return target


def sound_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux() if packet.size and packet.stream.type == "audio"]


def stamps(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def run(checkpoint: Path, *arguments) -> None:
    command.main([*map(str, arguments), "--checkpoint", str(checkpoint), "--device", "cpu"])


# cutting and joining


@pytest.mark.parametrize("overlap", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 7, 20])
def test_clips_join_to_the_frames_they_were_cut_from(count, overlap):
    frames = [torch.full((2, 2, 3), index, dtype=torch.uint8) for index in range(count)]
    clips = list(cut(frames, 4, overlap))
    assert all(clip.shape == (4, 2, 2, 3) for clip in clips)
    assert len(clips) == 1 + max(0, -(-(count - 4) // (4 - overlap)))
    joined = list(join((clip.permute(3, 0, 1, 2).double() for clip in clips), overlap))
    values = [int(frame.unique().round().item()) for frame in joined]
    assert values[:count] == list(range(count))
    assert set(values[count:]) <= {count - 1}, "the rest are repeats of the last frame"


def test_the_cross_fade_is_linear():
    clips = [torch.zeros(3, 8, 2, 2), torch.ones(3, 8, 2, 2)]
    joined = torch.stack(list(join(clips, 3)))[:, 0, 0, 0]
    torch.testing.assert_close(joined, torch.tensor([0] * 5 + [0.25, 0.5, 0.75] + [1] * 5))
    assert clips[1].eq(1).all(), "the clips are left as they were"


def test_overlap_has_a_default_and_limits():
    assert [chosen_overlap(None, frames) for frames in (1, 4, 16)] == [0, 1, 6]
    for wrong in (-1, 9):
        with pytest.raises(ValueError, match=rf"overlap={wrong}: clips of 16 frames can share 0 to 8"):
            chosen_overlap(wrong, 16)


def test_neighbouring_clips_give_the_same_frames_as_by_themselves(model):
    frames = [torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8) for _ in range(8)]
    together = list(decode_frames(model, encode_frames(model, frames, 0), 0))
    alone = list(decode_frames(model, encode_frames(model, frames[4:], 0), 0))
    assert all(torch.equal(one, other) for one, other in zip(together[4:], alone, strict=True))


# fitting


@pytest.mark.parametrize("height, width", [(16, 16), (33, 47), (90, 16), (1, 300), (8, 8)])
def test_what_pad_takes_in_comes_back(height, width):
    fit = Fit("pad", width, height, 16)
    frame = torch.full((height, width, 3), 200, dtype=torch.uint8)
    square = fit.into(frame)
    top, left, h, w = fit.box
    assert square.shape == (16, 16, 3) and max(h, w) == 16
    assert (square == 200).all(), "the edges are drawn out"
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[top : top + h, left : left + w] = False
    square[outside] = 0
    back = fit.back(square.permute(2, 0, 1) / 127.5 - 1)
    assert torch.equal(back, frame), "nothing of what is outside the picture"


def test_pad_keeps_every_corner_where_it_was():
    frame = torch.zeros(32, 64, 3, dtype=torch.uint8)
    frame[:16, :32] = 255
    fit = Fit("pad", 64, 32, 16)
    back = fit.back(fit.into(frame).permute(2, 0, 1) / 127.5 - 1)
    assert (back[:8, :24] > 250).all() and (back[24:] < 5).all() and (back[:, 40:] < 5).all()


def test_crop_is_the_centre_square():
    frame = torch.zeros(16, 48, 3, dtype=torch.uint8)
    frame[:, 16:32] = 100
    fit = Fit("crop", 48, 16, 16)
    square = fit.into(frame)
    assert (square == 100).all() and fit.output_size == (16, 16)
    assert torch.equal(fit.back(square.permute(2, 0, 1) / 127.5 - 1), square)
    with pytest.raises(ValueError, match="fit='stretch' is none of pad, crop"):
        Fit("stretch", 1, 1, 1)


# files


@pytest.mark.parametrize(
    "count, height, width, rate, ending",
    [
        (1, 32, 32, Fraction(25), "mp4"),
        (9, 33, 47, Fraction(30000, 1001), "mp4"),
        (9, 33, 46, Fraction(30000, 1001), "mkv"),
        (10, 20, 90, Fraction(12), "mov"),
    ],
)
def test_the_output_has_size_rate_and_length_of_the_input(checkpoint, tmp_path, count, height, width, rate, ending):
    source = write(tmp_path / f"in.{ending}", count, height, width, rate)
    run(checkpoint, source, tmp_path / "out.mp4")
    video = open_file(tmp_path / "out.mp4").format
    assert (video.width, video.height, video.rate) == (width, height, rate)
    assert stamps(tmp_path / "out.mp4") == [index / rate for index in range(count)]


def test_variable_frame_rate_stays(checkpoint, tmp_path):
    milliseconds = [0, 40, 50, 90, 300, 310, 350]
    source = make_video(tmp_path / "in.mp4", 7, milliseconds=milliseconds)
    run(checkpoint, source, tmp_path / "out.mp4")
    assert stamps(source) == [Fraction(stamp, 1000) for stamp in milliseconds]
    assert stamps(tmp_path / "out.mp4") == stamps(source)


def test_rotation_is_obeyed(checkpoint, tmp_path):
    source = make_video(tmp_path / "in.mp4", 5)
    upright = open_file(source).format
    turn_quarter(source)
    run(checkpoint, source, tmp_path / "out.mp4")
    turned = open_file(tmp_path / "out.mp4").format
    assert (turned.width, turned.height) == (upright.height, upright.width)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_pixels_that_are_not_square_stay_so(checkpoint, tmp_path):
    form = VideoFormat(32, 32, Fraction(25), Fraction(1, 25), pixel_aspect=Fraction(4, 3))
    with open_writer(tmp_path / "in.mp4", form) as writer:
        writer.write(numbered_frames(1, 32, 32)[0], 0, 1)
    run(checkpoint, tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert open_file(tmp_path / "out.mp4").format.pixel_aspect == Fraction(4, 3)


def test_frames_go_through_a_file_unchanged(tmp_path):
    """Colour matrices included: high-definition video says which it uses."""
    frame = torch.zeros(32, 48, 3, dtype=torch.uint8)
    frame[:, :16], frame[:, 16:32], frame[:, 32:] = (
        torch.tensor(c) for c in ([200, 40, 30], [20, 180, 60], [9, 9, 220])
    )
    for colorspace in (1, 2):
        form = VideoFormat(48, 32, Fraction(10), Fraction(1, 10), colorspace=colorspace)
        with open_writer(tmp_path / "video.mp4", form) as writer:
            writer.write(frame, 0, 1)
        video = open_file(tmp_path / "video.mp4")
        assert video.format.colorspace == colorspace
        back = next(video.frames()).pixels
        assert (back[:, 4:12].int() - frame[:, 4:12].int()).abs().max() < 8
        assert (back[:, 20:28].int() - frame[:, 20:28].int()).abs().max() < 8


def test_audio_is_copied_packet_by_packet(checkpoint, tmp_path):
    source = add_sound(write(tmp_path / "silent.mp4", 25, 32, 32), tmp_path / "in.mp4")
    assert len(sound_packets(source)) >= 8
    run(checkpoint, source, tmp_path / "out.mp4")
    assert sound_packets(tmp_path / "out.mp4") == sound_packets(source)
    run(checkpoint, source, tmp_path / "without.mp4", "--audio", "false")
    assert sound_packets(tmp_path / "without.mp4") == []


def test_audio_that_does_not_fit_the_container_is_an_error(checkpoint, tmp_path):
    source = add_sound(write(tmp_path / "silent.mp4", 5, 32, 32), tmp_path / "in.mkv", codec="pcm_u8", seconds=0.25)
    with pytest.raises(ValueError, match=r"pcm_u8 does not go into a mp4 file.*\.mkv.*--audio false"):
        run(checkpoint, source, tmp_path / "out.mp4")
    assert not list(tmp_path.glob("*out*"))
    run(checkpoint, source, tmp_path / "out.mkv")
    assert sound_packets(tmp_path / "out.mkv") == sound_packets(source)


def test_beside_and_crop(checkpoint, tmp_path):
    source = write(tmp_path / "in.mp4", 6, 33, 47)
    run(checkpoint, source, tmp_path / "beside.mp4", "--beside")
    video = open_file(tmp_path / "beside.mp4")
    assert (video.format.width, video.format.height) == (94, 33)
    for shown, frame in zip(video.frames(), numbered_frames(6, 33, 47), strict=True):
        assert (shown.pixels[:, :47].int() - torch.from_numpy(frame).int()).abs().float().mean() < 3
    run(checkpoint, source, tmp_path / "crop.mp4", "--fit", "crop", "--beside", "true")
    assert (video := open_file(tmp_path / "crop.mp4").format).width == 32 and video.height == 16


def test_parts_and_the_dynamics_of_another_video(checkpoint, model, tmp_path):
    one = add_sound(write(tmp_path / "silent.mp4", 20, 20, 32), tmp_path / "one.mp4", seconds=0.8)
    other = make_video(tmp_path / "other.mkv", 9, fps=10)
    given = ("--structure", one, "--dynamics", other)
    run(checkpoint, tmp_path / "out.mp4", *given)
    video = open_file(tmp_path / "out.mp4")
    assert (video.num_frames, video.format.rate, video.format.width, video.format.height) == (9, 25, 32, 20)
    packets = sound_packets(tmp_path / "out.mp4")
    assert 0 < len(packets) < len(sound_packets(one)), "the sound ends with the pictures"

    config = command.ReconstructConfig(checkpoint, overlap=0)
    files = open_file(one), open_file(other)
    squares = [[Fit("pad", f.format.width, f.format.height, 16).into(p.pixels) for p in f.frames()] for f in files]
    latents = [list(encode_frames(model, frames, 0)) for frames in squares]
    swapped = type(latents[0][0])(latents[0][1].structure, latents[1][1].dynamics)
    fit = Fit("pad", 32, 20, 16)
    expected = [fit.back(frame) for frame in decode_frames(model, [swapped], 0)]
    got = [frame.pixels for frame in reconstruction.reconstructed(model, *files, config)]
    assert len(got) == 9 and all(torch.equal(a, b) for a, b in zip(got[4:8], expected, strict=True))

    def first(part: str) -> torch.Tensor:
        config = command.ReconstructConfig(checkpoint, part=part)
        return next(reconstruction.reconstructed(model, files[0], files[0], config)).pixels

    frames = [first(part) for part in ("both", "structure", "dynamics")]
    assert not any(torch.equal(a, b) for a, b in ((frames[0], frames[1]), (frames[0], frames[2])))


def test_memory_does_not_grow_with_the_length(checkpoint, model):
    """Frames that are alive at a time, of 100 and of 1000, those kept to be put beside the result included."""

    class Video:
        format, repeats = VideoFormat(20, 12, Fraction(25), Fraction(1, 25)), 1

        def __init__(self, count: int):
            self.count, self.alive, self.most = count, weakref.WeakSet(), 0

        def frames(self):
            for stamp in range(self.count):
                pixels = torch.full((12, 20, 3), stamp % 256, dtype=torch.uint8)
                self.alive.add(pixels)
                self.most = max(self.most, len(self.alive))
                yield pixels, stamp, 1

    def most(count: int) -> int:
        video = Video(count)
        config = command.ReconstructConfig(checkpoint, beside=True)
        shown = sum(1 for _ in reconstruction.reconstructed(model, video, video, config))
        assert shown == count
        return video.most

    assert most(100) == most(1000) <= 2 * model.config.num_frames


def test_an_error_leaves_no_file(checkpoint, tmp_path, monkeypatch):
    source = write(tmp_path / "in.mp4", 12, 32, 32)

    def interrupted(*arguments):
        for number, frame in enumerate(command_frames(*arguments)):
            if number == 6:
                raise KeyboardInterrupt
            yield frame

    command_frames = reconstruction.reconstructed
    monkeypatch.setattr(reconstruction, "reconstructed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, source, tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_wrong_arguments_are_named(checkpoint, tmp_path):
    source = write(tmp_path / "in.mp4", 2, 32, 32)
    before = source.read_bytes()
    (tmp_path / "link.mp4").symlink_to(source)
    for output in ("in.mp4", "link.mp4"):
        with pytest.raises(ValueError, match=rf"{output} is the input as well as the output"):
            run(checkpoint, source, tmp_path / output)
    assert source.read_bytes() == before
    with pytest.raises(ValueError, match=r"out\.gif: the name of the file must end in \.mp4, \.mov, \.mkv"):
        run(checkpoint, source, tmp_path / "out.gif")
    with pytest.raises(ValueError, match="expected an input and an output, got 1 paths"):
        run(checkpoint, source)
    with pytest.raises(ValueError, match="give both, or an input instead"):
        run(checkpoint, tmp_path / "out.mp4", "--structure", source)
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        run(tmp_path, source, tmp_path / "out.mp4")
    with pytest.raises(UnreadableVideo, match=r"none\.mp4"):
        run(checkpoint, tmp_path / "none.mp4", tmp_path / "out.mp4")
    make_audio(tmp_path / "sound.mp4")
    with pytest.raises(UnreadableVideo, match="no video stream"):
        run(checkpoint, tmp_path / "sound.mp4", tmp_path / "out.mp4")


@needs_clips
def test_a_damaged_file_is_named(checkpoint, tmp_path):
    with pytest.raises(UnreadableVideo, match=r"corrupted\.mp4"):
        run(checkpoint, CLIPS / "broken" / "corrupted.mp4", tmp_path / "out.mp4")
    assert not list(tmp_path.iterdir())


# the benchmark


@pytest.mark.parametrize("count, overlap", [(4, 0), (5, 0), (11, 0), (4, 1), (5, 1), (13, 1), (14, 1), (30, 1)])
def test_borders_are_where_clips_meet(count, overlap):
    """Frame by frame: which clips does it come from?"""
    clips = [set(range(start, start + 4)) for start in range(0, max(1, count - overlap), 4 - overlap)]
    sources = [{number for number, clip in enumerate(clips) if frame in clip} for frame in range(count)]
    expected = [sources[i] != sources[i + 1] or len(sources[i]) > 1 for i in range(count - 1)]
    assert joins.is_border(count - 1, 4, overlap).tolist() == expected


def test_joins_compares_borders_with_the_rest(checkpoint, tmp_path, capsys):
    row = joins.summarize("a", 0, np.array([1, 1, 1, 3.0]), np.ones(4), np.array([False, False, False, True]))
    assert (row.mean, row.p95, row.original_mean, row.num_borders, row.num_inside) == (3, 3, 1, 1, 3)
    source = write(tmp_path / "in.mp4", 14, 32, 32)
    joins_command.main([str(source), "--checkpoint", str(checkpoint), "--json", str(tmp_path / "joins.json")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and [line.split()[1] for line in lines[1:]] == ["0", "0", "1", "1"]
    assert (tmp_path / "joins.json").is_file()
