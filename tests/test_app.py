"""The work behind the page of `pipelines.app`, without a browser."""

import io
import struct
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import noise_latents, tiny_pipeline
from video_files import make_video

from autoencoder.common.errors import UserError
from autoencoder.common.pictures import unit_to_uint8
from autoencoder.data.shapes import CLASS_NAMES
from autoencoder.data.video_io import ClipReader
from autoencoder.metrics import VideoPSNR, VideoSSIM
from autoencoder.metrics.interpolation import between, halfway
from autoencoder.reconstruct import ReconstructConfig
from autoencoder.whole_videos.reconstruction import reconstructed
from autoencoder.whole_videos.video_file import open_file
from pipelines.page import films
from pipelines.page.controls import Desk, sentence
from pipelines.page.films import Limits, check_upload
from pipelines.page.layout import lay_out
from pipelines.page.recombine import Given, exchange, exchange_sources, sample_other
from pipelines.page.reconstruct import PARTS, look_at_upload, reconstruct_upload
from pipelines.page.sample import cost_table, sample
from pipelines.page.sources import REAL, SAMPLE, UPLOAD, Source, take_upload
from pipelines.page.studio import SamplingSettings, Studio
from pipelines.page.visits import Visits
from pipelines.page.walk import step_to, take_ends, video_between
from pipelines.page.work import Work, WorkStopped

QUICK = SamplingSettings(steps=3)
CLIP_A = Source("recombine-A", REAL, "circle_horizontal", 1, None)
CLIP_B = Source("recombine-B", REAL, "ring_vertical", 2, None)


@pytest.fixture(scope="module")
def studio() -> Studio:
    """A pipeline of moving shapes with random weights."""
    pipe = tiny_pipeline(names=CLASS_NAMES, independent_times=True, num_frames=8, sample_size=32)
    pipe.vae.eval()  # as a folder that is loaded
    return Studio(pipe, Limits(seconds=10, megabytes=1))


@pytest.fixture
def visits(tmp_path) -> Visits:
    (tmp_path / "visits").mkdir()
    return Visits(tmp_path / "visits")


@pytest.fixture
def visit(visits):
    return visits.of("somebody")


def shown(path: str | Path) -> torch.Tensor:
    """The frames of a file that `show` wrote, uint8 (T, 32, 32, 3)."""
    return ClipReader(8, 32, None, unseeded="first").read(path)


def assert_shows(path: str | Path, frames: torch.Tensor) -> None:
    """Equal up to what H.264 changes, which is much in the noise that random weights make; it is no mirror image."""
    frames = frames.float()
    assert (shown(path) - frames).abs().mean() < 0.4 * (frames.flip(-2) - frames).abs().mean()


def test_samples_are_those_of_the_pipeline_and_replace_the_former_ones(studio, visit):
    files, cost = sample(studio, visit, Work(), "ring_vertical", 5, 2, QUICK)
    out = studio.pipe("ring_vertical", 3, 2.0, 2, generator=5)
    assert [Path(file).name for file in files] == ["ring_vertical_5.mp4", "ring_vertical_6.mp4"]
    for file, frames in zip(files, out.frames, strict=True):
        assert_shows(file, unit_to_uint8(frames))
    assert cost.sampling.flops == out.cost.sampling.flops and cost.decoding.flops == out.cost.decoding.flops
    table = cost_table(cost)
    assert table.count("\n") == 3 and "FLOP" in table and table.count("not measured") == 2
    sample(studio, visit, Work(), "ring_vertical", 5, 1, QUICK)
    assert [path.name for path in visit.folder.rglob("*.mp4")] == ["ring_vertical_5.mp4"]


def test_guidance_and_scheduler_are_used_and_the_pipelines_own_is_put_back(studio):
    own = studio.pipe.scheduler
    assert studio.schedulers[0] == type(own).__name__ and len(studio.schedulers) == 3
    settings = SamplingSettings(3, 4.0, 1.0, "UniPCMultistepScheduler")
    frames = studio.sample("circle_vertical", 1, settings, Work()).frames
    assert studio.pipe.scheduler is own
    assert not np.array_equal(frames, studio.sample("circle_vertical", 1, QUICK, Work()).frames)
    pair = studio.pipe("circle_vertical", 3, (4.0, 1.0), generator=1).frames
    assert np.array_equal(pair, studio.sample("circle_vertical", 1, SamplingSettings(3, 4.0, 1.0), Work()).frames)
    with pytest.raises(UserError, match="DDIMScheduler does not fit"):
        studio.sample("circle_vertical", 1, SamplingSettings(3, scheduler="DDIMScheduler"), Work())
    with pytest.raises(UserError, match="there is no seed"):
        studio.sample("circle_vertical", None, QUICK, Work())
    for seed in (-5, 2**31):
        with pytest.raises(UserError, match=f"the seed must be in 0 to 2147483647, got {seed}"):
            studio.sample("circle_vertical", seed, QUICK, Work())


def test_sampling_ends_after_the_step_in_which_it_is_stopped(studio, visit, monkeypatch):
    told = []

    def tell(done: int, total: int, what: str) -> None:
        told.append((done, total, what))
        if done == 2:
            work.stop()

    work = Work(tell)
    with pytest.raises(WorkStopped):
        sample(studio, visit, work, "ring_vertical", 0, 1, SamplingSettings(steps=9))
    assert told == [(1, 9, "sampling"), (2, 9, "sampling"), (3, 9, "sampling")]
    assert not list(visit.folder.rglob("*.mp4"))
    assert len(sample(studio, visit, Work(), "ring_vertical", 0, 1, QUICK)[0]) == 1


def test_real_clips_are_held_out_clips_of_their_class(studio):
    for name in ("circle_horizontal", "cross_vertical"):
        for number in (1, 7):
            index = 10 * (number - 1) + CLASS_NAMES.index(name)
            assert torch.equal(studio.real_clip(name, number), studio.real_clips.clip(index))
    for number in (101, None):
        with pytest.raises(UserError, match="have the numbers 1 to 100, got"):
            studio.real_clip("circle_horizontal", number)
    with pytest.raises(UserError, match="the number of a clip must be at least 1, got 0"):
        studio.real_clip("circle_horizontal", 0)
    other = Studio(tiny_pipeline(), Limits())
    assert other.real_clips is None and other.classes == ["Circle Left", "Circle Right", "Square Left"]
    with pytest.raises(UserError, match="upload a video instead"):
        other.real_clip("Circle Left", 1)


def test_the_four_videos_hold_structure_and_dynamics_of_either_clip(studio, visit):
    first, second = noise_latents(studio.pipe, 2)[0], noise_latents(studio.pipe, 2)[1]
    videos = exchange(studio, first, second)
    for video, structure, dynamics in zip(
        videos, (first, first, second, second), (first, second, first, second), strict=True
    ):
        joined = type(first)(structure.structure, dynamics.dynamics)
        assert (video.int() - studio.decode(joined)[0].int()).abs().max() <= 1  # of a batch and of one
    files = exchange_sources(studio, visit, Work(), (CLIP_A, CLIP_B), QUICK)
    assert_shows(files[0], studio.real_clip("circle_horizontal", 1))
    assert_shows(files[1], studio.real_clip("ring_vertical", 2))
    latents = [studio.encode(studio.real_clip(*which)) for which in (("circle_horizontal", 1), ("ring_vertical", 2))]
    for file, video in zip(files[2:], exchange(studio, *latents), strict=True):
        assert_shows(file, video)


@pytest.mark.parametrize("latent", ["structure", "dynamics"])
def test_one_latent_is_given_and_the_other_one_sampled(studio, visit, latent):
    given = Given(latent, "square_vertical", 3)
    clip, alone, sampled = sample_other(studio, visit, Work(), CLIP_A, given, QUICK)
    latents = studio.encode(studio.real_clip("circle_horizontal", 1))
    assert_shows(clip, studio.real_clip("circle_horizontal", 1))
    assert_shows(alone, studio.decode(latents, latent)[0])
    out = studio.pipe("square_vertical", 3, 2.0, generator=3, **{latent: latents})
    assert_shows(sampled, unit_to_uint8(out.frames[0]))


def test_a_transformer_without_independent_times_is_given_no_latent(visit):
    plain = Studio(tiny_pipeline(names=CLASS_NAMES, num_frames=8, sample_size=32), Limits())
    with pytest.raises(UserError, match="samples both latents together only"):
        sample_other(plain, visit, Work(), CLIP_A, Given("structure", "square_vertical", 3), QUICK)


def test_a_sample_and_an_upload_are_sources_too(studio, visit, tmp_path):
    latents, clip = Source("walk-A", SAMPLE, "ring_vertical", None, 4).take(studio, visit, Work(), QUICK)
    out = studio.pipe("ring_vertical", 3, 2.0, generator=4, output_type="latent").frames
    assert torch.equal(latents.structure, out.structure) and torch.equal(clip, studio.decode(out)[0])
    upload = Source("walk-A", UPLOAD, "ring_vertical", None, None)
    with pytest.raises(UserError, match="there is no video for clip A: upload one"):
        upload.take(studio, visit, Work(), QUICK)
    film = make_video(tmp_path / "up" / "film.mp4", count=40)
    expected = ClipReader(8, 32, 8.0, unseeded="first").read(film)
    assert_shows(take_upload(studio, visit, "walk-A", str(film)), expected)
    assert not film.exists() and not film.parent.exists()
    assert torch.equal(upload.take(studio, visit, Work(), QUICK)[1], expected)
    short = make_video(tmp_path / "up" / "short.mp4", count=5)
    with pytest.raises(UserError, match=r"^short.mp4 cannot be read as a video: too short, 8 frames take"):
        take_upload(studio, visit, "walk-A", str(short))
    assert not short.exists()
    with pytest.raises(UserError, match="there is no video for clip A"):
        upload.take(studio, visit, Work(), QUICK)


def test_a_walk_goes_from_one_clip_to_the_other_in_the_latent_asked_for(studio, visit):
    with pytest.raises(UserError, match="no clips to walk between yet"):
        video_between(studio, visit, "both", 0.5)
    take_ends(studio, visit, Work(), (CLIP_A, CLIP_B), QUICK)
    first, second = visit.ends["walk"]
    videos = exchange(studio, first, second).int()
    ends = {"both": (0, 3), "structure": (0, 2), "dynamics": (0, 1)}
    for part, places in ends.items():
        for share, place in zip((0.0, 1.0), places, strict=True):
            assert (video_between(studio, visit, part, share).int() - videos[place]).abs().max() <= 1
    half = between(first, second, 0.5)
    pair = halfway(type(first).cat([first, second]), torch.tensor([[0, 1]]))
    torch.testing.assert_close(half.structure, pair.structure)
    torch.testing.assert_close(between(first, second, 0.5, "dynamics").dynamics, pair.dynamics)
    assert_shows(step_to(studio, visit, "structure", 0.25), video_between(studio, visit, "structure", 0.25))


def score(metric: VideoPSNR | VideoSSIM, prediction: torch.Tensor, target: torch.Tensor) -> float:
    """Of videos uint8 (T, H, W, 3)."""
    metric.update(*(video.permute(3, 0, 1, 2)[None] / 255 for video in (prediction, target)))
    return metric.compute().item()


@pytest.mark.parametrize("mode", ["pad", "crop"])
def test_a_reconstruction_is_that_of_the_command_with_its_scores(studio, visit, tmp_path, mode):
    film = make_video(tmp_path / "film.mp4", count=30, height=38, width=52)
    video, told = open_file(film), []
    frames = {
        part: list(reconstructed(studio.vae, video, video, ReconstructConfig(Path("x"), part=part, fit=mode)))
        for part in PARTS
    }
    beside = list(reconstructed(studio.vae, video, video, ReconstructConfig(Path("x"), fit=mode, beside=True)))
    text, files = reconstruct_upload(studio, visit, Work(lambda *done: told.append(done)), str(film), mode)
    assert told == [(count, 30, "frames") for count in range(1, 31)] and not film.exists()
    assert list(files) == ["original", "both", "structure", "dynamics"]
    width = 32 if mode == "crop" else 52
    originals = torch.stack([frame.pixels[:, :width] for frame in beside])
    for part, line in zip(PARTS, text.splitlines()[2:5], strict=True):
        pixels = torch.stack([frame.pixels for frame in frames[part]])
        scores = f"{score(VideoPSNR(), pixels, originals):.2f} dB | "
        if mode == "crop":  # where the model takes what is shown
            scores += f"{scores}{score(VideoSSIM(), pixels, originals):.3f} |"
        assert line.startswith(f"| {PARTS[part]} | {scores}")
        factor = -(-256 // width)
        written = torch.stack([frame.pixels for frame in open_file(files[part]).frames()])
        enlarged = pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        assert written.shape == enlarged.shape and (written.int() - enlarged.int()).abs().float().mean() < 12
    clips = 1 + -(-(30 - 8) // (8 - 3))
    assert f"30 frames at 25 per second, in {clips} clips" in text
    assert f"{clips * studio.vae.num_latent_scalars:,} latent numbers" in text


def test_videos_with_odd_sides_are_shown(studio, visit, tmp_path):
    film = make_video(tmp_path / "film.mkv", count=9, height=21, width=301, codec="ffv1")
    text, files = reconstruct_upload(studio, visit, Work(), str(film), "pad")
    assert "PSNR at 301 x 21" in text
    assert (open_file(files["both"]).format.width, open_file(files["both"]).format.height) == (300, 20)
    frames = torch.zeros(301, 701, 3, dtype=torch.uint8)
    assert films.enlarged(frames).shape == (300, 700, 3)
    assert films.enlarged(frames[:1, :1]).shape == (256, 256, 3)


def test_a_reconstruction_that_is_stopped_leaves_no_file(studio, visit, tmp_path):
    film = make_video(tmp_path / "up" / "film.mp4", count=30)
    work = Work(lambda done, total, what: work.stop() if done == 4 else None)
    look_at_upload(studio, visit, str(film))
    with pytest.raises(WorkStopped):
        reconstruct_upload(studio, visit, work, str(film), "pad")
    assert not film.exists() and not visit.uploads
    assert not [path for path in visit.folder.rglob("*") if path.is_file()]
    for path in (None, str(film)):
        with pytest.raises(UserError, match="upload one first|film.mp4 is no longer here: upload it again"):
            reconstruct_upload(studio, visit, Work(), path, "pad")


def test_what_is_not_taken_is_told_in_one_sentence_without_its_place(studio, visit, tmp_path, monkeypatch):
    notes, playlist, sound = (tmp_path / f"{name}.mp4" for name in ("notes", "playlist", "large"))
    notes.write_text("no video, but a text")
    film = make_video(tmp_path / "film.mkv", count=20)
    playlist.write_text(f"ffconcat version 1.0\nfile {film.name}\n")
    av.open(str(playlist)).close()  # FFmpeg would open the file that it names
    sound.write_bytes(bytes(2**20 + 1))
    formats = "mp4, mov, mkv, webm, avi, gif, mpg, ts, wmv, flv or ogg"
    (tmp_path / "empty.mp4").touch()
    refused = {
        tmp_path / "empty.mp4": "empty.mp4 cannot be read as a video: the file is empty",
        notes: "notes.mp4 cannot be read as a video: Invalid data found when processing input",
        playlist: f"playlist.mp4 cannot be read as a video: it is no {formats} file",
        sound: "large.mp4 has 1.0 MB, and up to 1 MB are taken",
        make_video(tmp_path / "long.mp4", count=30, fps=2): "long.mp4 lasts 15.0 s, and up to 10 s are taken",
        tmp_path / "gone.mp4": "gone.mp4 is no longer here: upload it again",
    }
    for path, message in refused.items():
        with pytest.raises(UserError) as caught:
            look_at_upload(studio, visit, str(path))
        assert str(caught.value) == message
        assert not path.exists() and not visit.uploads
    monkeypatch.setattr(films, "MOST_PIXELS", 3000)
    with pytest.raises(UserError, match="film.mkv has frames of 64 x 48, and up to 3,000 pixels are taken"):
        check_upload(film, studio.limits)


def test_an_upload_that_is_looked_at_replaces_the_former_one(studio, visit, tmp_path):
    first, second = (make_video(tmp_path / name / "film.mp4", count=20) for name in ("one", "two"))
    text, former = look_at_upload(studio, visit, str(first))
    assert text == "64 x 48, 20 frames at 25 per second."
    text, own = look_at_upload(studio, visit, str(second))
    assert not first.exists() and not second.exists() and not Path(former).exists()
    assert [path for path in visit.folder.rglob("*") if path.is_file()] == [Path(own)]


def test_two_visitors_may_upload_the_same_file(studio, visits, tmp_path):
    visitors, given, own = [visits.of("somebody"), visits.of("another")], tmp_path / "up" / "film.mp4", []
    for visit in visitors:  # gradio names the folder of an upload by what is in it
        own.append(Path(look_at_upload(studio, visit, str(make_video(given, count=20)))[1]))
    assert not given.parent.exists() and own[0] != own[1] and {path.name for path in own} == {"film.mp4"}
    visitors[0].drop_uploads()
    assert not own[0].exists()
    for path in (given, own[1]):  # the first if its button was pressed before the file had been looked at
        assert visitors[1].take_upload(path) == own[1]
    assert "20 frames" in reconstruct_upload(studio, visitors[1], Work(), str(own[1]), "pad")[0]
    assert not own[1].exists() and not visitors[1].uploads and not list(tmp_path.rglob("film.mp4"))


def test_a_frame_that_is_too_large_is_refused_before_it_is_decoded(studio, tmp_path, monkeypatch):
    film = tmp_path / "film.gif"
    picture = struct.pack("<cHHHHB", b",", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"  # one pixel of the canvas
    film.write_bytes(b"GIF89a" + struct.pack("<HHBBB", 15000, 15000, 0x80, 0, 0) + bytes(6) + picture + b";")
    for name in ("index_frames", "open_file"):
        monkeypatch.setattr(films, name, lambda path: pytest.fail("a frame is decoded"))
    with pytest.raises(UserError, match=r"^film.gif has frames of 15000 x 15000, and up to 9,437,184 pixels are taken"):
        check_upload(film, studio.limits)


def test_a_video_of_too_many_frames_is_refused(tmp_path):
    film = make_video(tmp_path / "film.mkv", count=40, fps=400)
    assert check_upload(film, Limits(seconds=1)).num_frames == 40
    with pytest.raises(UserError, match=r"^film.mkv has 40 frames, and up to 24 are taken$"):
        check_upload(film, Limits(seconds=0.2))


def test_the_end_of_a_visit_stops_its_work_and_removes_all_of_it(studio, visits, tmp_path):
    visit, other = visits.of("somebody"), visits.of("another")
    film = make_video(tmp_path / "up" / "film.mp4", count=20)
    look_at_upload(studio, visit, str(film))
    take_ends(studio, visit, Work(), (CLIP_A, CLIP_B), QUICK)
    sample(studio, other, Work(), "ring_vertical", 0, 1, QUICK)
    visit.work["sample"] = work = Work()
    visits.end("somebody")
    visits.end("nobody")
    assert work.is_stopped and not film.exists() and not visit.folder.exists() and len(visits) == 1
    assert list(other.folder.rglob("*.mp4"))
    visits.end_all()
    assert not other.folder.exists() and len(visits) == 0


def test_work_whose_visitor_has_left_leaves_nothing_and_bad_input_becomes_a_line(studio, visits):
    desk = Desk(studio, visits)
    visitor = SimpleNamespace(session_hash="somebody")

    def work(visit, work, text):
        if text == "bad":
            raise UserError("this is bad")
        if text == "leave":
            desk.leave(visitor)
            (visit.new_folder("late") / "late.mp4").write_text("late")
        work.check()
        return text, "output"

    run = desk._running("work", work, 1, 1)
    skipped = gr.skip()
    assert run(visitor, gr.Progress(), "good") == ("good", "output", None)
    assert run(visitor, gr.Progress(), "bad") == ("**this is bad.**", skipped, None)
    assert len(visits) == 1 and list(visits.folder.iterdir())
    assert run(visitor, gr.Progress(), "leave") == ("Stopped.", skipped, None)
    assert len(visits) == 0 and not list(visits.folder.iterdir())
    assert not studio.turn.locked()


@pytest.mark.parametrize("names", [("../../../up", "/up", "a/b"), ("up\0", "x" * 300, ""), None])
def test_classes_of_any_name_are_sampled_to_files_of_the_visit(visit, tmp_path, names):
    pipe = tiny_pipeline()
    pipe.transformer.register_to_config(id2label=names and {str(index): name for index, name in enumerate(names)})
    studio = Studio(pipe, Limits())
    assert studio.classes == list(names or "012")
    for class_name in studio.classes:
        ((file,), _) = sample(studio, visit, Work(), class_name, 7, 1, SamplingSettings(steps=1))
        assert Path(file).resolve().parents[2] == visit.folder.resolve() and file.endswith("_7.mp4")
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [Path(file)]


def with_large_picture(path: Path) -> Path:
    """Ten frames of 64 x 48 pixels and one of 2000 x 2000, all of them whole JPEG files."""

    def jpeg(width: int, height: int) -> bytes:
        data = io.BytesIO()
        Image.new("RGB", (width, height)).save(data, "JPEG")
        return data.getvalue()

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for place in range(11):
            packet = av.Packet(jpeg(64, 48) if place < 10 else jpeg(2000, 2000))
            packet.pts = packet.dts = place
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 5), stream, True
            container.mux(packet)
    return path


def test_a_stream_whose_picture_grows_is_refused_before_the_large_frame_is_decoded(studio, visit, tmp_path):
    film = with_large_picture(tmp_path / "film.avi")
    reason = "a frame is damaged, or far larger than the first one$"
    with pytest.raises(UserError, match=f"^{film}: {reason}"):
        ClipReader(11, None, None).read(film)
    assert "64 x 48, 11 frames" in look_at_upload(studio, visit, str(film))[0]
    with pytest.raises(UserError, match=f"^film.avi cannot be read as a video: {reason}"):
        reconstruct_upload(studio, visit, Work(), str(film), "pad")
    assert not [path for path in visit.folder.rglob("*") if path.is_file()]


def test_an_error_is_one_sentence_in_which_names_stay_text():
    error = UserError("<b>film</b>.mp4: it\n  is damaged")
    assert sentence(error) == "**&lt;b&gt;film&lt;/b&gt;.mp4: it is damaged.**"
    assert sentence(UserError("_film_.mp4: it is `damaged`")) == r"**\_film\_.mp4: it is \`damaged\`.**"


def test_a_pipeline_without_real_clips_has_a_page_of_uploads_and_samples(visits):
    page = lay_out(Studio(tiny_pipeline(), Limits()), visits, (60, 60))
    kinds = [block.choices for block in page.blocks.values() if str(block.elem_id).endswith("-kind")]
    assert len(kinds) == 4 and all(choices == [(SAMPLE, SAMPLE), (UPLOAD, UPLOAD)] for choices in kinds)
