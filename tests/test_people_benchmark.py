"""The benchmark of people, on videos made for it: four people in their colours, each doing two things."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from tiny_models import tiny_pipeline
from torch import nn
from torch.nn import functional as F

from autoencoder import AutoencoderVidTwin
from autoencoder.common.errors import UserError
from autoencoder.data.video_io import ClipReader
from benchmarks import people
from benchmarks.people import PeopleConfig
from benchmarks.work import people as work
from benchmarks.work.people_inputs import check_classes
from pipelines import VidTwinDiffusionPipeline

ACTIONS = ("down", "right")
COLOURS = {"person00": (220, 30, 30), "person01": (30, 200, 40), "person02": (40, 60, 230)}
COLOURS |= {"person03": (230, 220, 30)}
FRAMES, SIDE = 12, 32


class Motion(nn.Module):
    """In I3D's place: how much changes in each row and column, so that it names motions and no colours."""

    num_features = 2 * SIDE
    identity = {"name": "motion", "known": False}

    @classmethod
    def installed(cls) -> "Motion":
        return cls()

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        change = (video[:, :, 1:] - video[:, :, :-1]).abs().mean(dim=(1, 2))  # (B, H, W)
        change = F.adaptive_avg_pool2d(change, SIDE)
        return torch.cat([change.mean(dim=1), change.mean(dim=2)], dim=1)


class NoLpips(work.VideoPSNR):
    """In the place of LPIPS, which takes its time."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(work, "I3D", Motion)
    monkeypatch.setattr(work, "VideoLPIPS", NoLpips)


def film(path: Path, motion: str, colour: tuple[int, int, int], frames: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv444p"
        for number in range(frames):
            frame = np.full((SIDE, SIDE, 3), 128, dtype=np.uint8)
            along = slice(2 + number % 20, 10 + number % 20)
            place = (along, slice(12, 20)) if motion == "down" else (slice(12, 20), along)
            frame[place] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("films")
    for action in ACTIONS:
        for name, colour in COLOURS.items():
            film(root / action / f"{name}.mp4", action, colour)
    return root


@pytest.fixture
def other_films(films, tmp_path) -> Path:
    """The films, to be added to and taken from."""
    return Path(shutil.copytree(films, tmp_path / "films"))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline(names=ACTIONS, independent_times=True, num_frames=FRAMES, sample_size=SIDE).save_pretrained(folder)
    return folder


def autoencoder(pipeline: Path) -> AutoencoderVidTwin:
    return AutoencoderVidTwin.from_pretrained(pipeline / "vae")


def config(films: Path, folder: Path, **changes) -> PeopleConfig:
    settings = {"checkpoints": [str(folder / "vae")], "data_root": str(films), "content_pattern": r"person\d+"}
    settings |= {"held_out_contents": ["person02", "person03"], "sample_fps": 25.0, "clips_per_video": 2, "pairs": 6}
    return PeopleConfig(**(settings | {"device": "cpu"} | changes))


def test_the_command_measures_prints_and_writes(films, pipeline, tmp_path, capsys):
    flags = {"checkpoint": f"mine={pipeline / 'vae'}", "data-root": films, "device": "cpu", "sample-fps": 25}
    flags |= {"content-pattern": r"person\d+", "held-out-contents": "person02,person03", "clips-per-video": 2}
    flags |= {"output": tmp_path / "people.json", "sheet": tmp_path / "people.png", "pairs": 4}
    people.main([f"--{name}={value}" for name, value in flags.items()])
    (found,) = json.loads((tmp_path / "people.json").read_text())["results"]
    assert found["samples"] == found["distances"] == [] and found["judges"]["action_accuracy"] == 1.0
    assert [row["people"] for row in found["exchanges"]] == ["training", "held-out"]
    assert str(films) not in (tmp_path / "people.json").read_text()
    printed = capsys.readouterr().out
    assert "judge of actions, people left out: 100.0% right (errors: none)" in printed and "| mine both |" in printed
    assert "samples, given" not in printed
    assert np.asarray(Image.open(tmp_path / "people.png")).std() > 10


def test_a_pipeline_is_measured_whole(films, pipeline):
    found, rows = work.measure(config(films, pipeline, pipeline=pipeline, seeds=2, num_inference_steps=1))
    assert found.judges == work.Judges(1.0, {}, 1.0)
    assert [row.part for row in found.reconstructions] == [work.FROZEN, *work.PARTS]
    assert {row.clips for row in found.reconstructions} == {8}
    assert found.reconstructions[0].psnr > found.reconstructions[1].psnr, "the model is random, the mean is not"
    given = {row.given: row for row in found.samples}
    assert set(given) == {"nothing", "training", "held-out"} and len(given["nothing"].action) == 2
    assert not given["nothing"].look and len(given["training"].look) == 2 and given["training"].clips == 4
    assert all(set(row.by_action) == set(ACTIONS) for row in found.samples)
    sets = {(row.sets, row.action): row for row in found.distances}
    assert len(sets[("samples", "all")].kvd) == 2 and sets[("samples", "all")].clips == 8
    assert sets[("reconstructions", "down")].clips == 4
    text = work.tables(found)
    assert "| samples, given |" in text and "other moments of the same videos" in text
    assert sum(caption.startswith("samples of") for caption, _ in rows) == 2


@pytest.mark.parametrize("latent", ["structure", "dynamics"])
def test_an_exchange_is_judged_by_both_sources(films, pipeline, monkeypatch, latent):
    """Decoded is the one clip or the other as it was."""
    measured = work.People(config(films, pipeline), autoencoder(pipeline))
    one, other = measured.pairs("held-out")
    assert len(one) == 6 and (one.people != other.people).all() and (one.labels != other.labels).all()
    shown = one if latent == "structure" else other
    monkeypatch.setattr(work, "decode_clips", lambda vae, latents: shown.frames)
    found, rows = measured.exchange(autoencoder(pipeline), "held-out")
    of_structure = (found.action_of_structure, found.look_of_structure)
    of_dynamics = (found.action_of_dynamics, found.look_of_dynamics)
    assert (of_structure, of_dynamics)[latent == "dynamics"] == (1.0, 1.0)
    assert (of_structure, of_dynamics)[latent == "structure"] == (0.0, 0.0)
    assert len(rows) == 3 and rows[0][1].shape == (work.SHOWN, SIDE, work.FRAMES * SIDE, 3)


def test_reconstructions_are_judged(films, pipeline, monkeypatch):
    """Decoded are the clips as they were, those of another action, and those of another person."""
    with monkeypatch.context() as lossless:  # then the judge of decoded clips sees what that of real ones does
        lossless.setattr(work, "encode_clips", lambda vae, frames, batch_size: frames)
        lossless.setattr(work, "decode_clips", lambda vae, frames: frames)
        measured = work.People(config(films, pipeline), autoencoder(pipeline))
    real = measured.of("held-out")
    order = (real.people * 2 + real.labels).argsort(stable=True)  # two people, two actions, two clips
    shown = rearrange(real.frames[order], "(p a c) ... -> p a c ...", p=2, a=2)
    decoded = {"both": shown, "structure": shown.flip(1), "dynamics": shown.flip(0)}
    decoded = {part: clips.flatten(0, 2)[order.argsort()] for part, clips in decoded.items()}
    monkeypatch.setattr(work, "decode_clips", lambda vae, latents, part: decoded[part])
    rows = measured.reconstructions("mine", autoencoder(pipeline))
    seen = {row.part: (row.action, row.decoded_action, row.look) for row in rows}
    assert seen == {"both": (1, 1, 1), "structure": (0, 0, 1), "dynamics": (1, 1, 0)}


def test_what_is_not_known_is_said(films, pipeline):
    with pytest.raises(UserError, match=r"person_pattern='nobody' finds nobody in down/person00.mp4; --person-pat"):
        work.People(config(films, pipeline, person_pattern="nobody"), autoencoder(pipeline))
    with pytest.raises(UserError, match="who is seen is not known in .*/person03.mp4; --content-pattern REGEX must"):
        settings = {"content_pattern": "person0[012]", "held_out_contents": ["person02"]}
        work.People(config(films, pipeline, **settings), autoencoder(pipeline))
    with pytest.raises(UserError, match="give folders of autoencoders by --checkpoint"):
        work.measure(config(films, pipeline, checkpoints=[]))
    with pytest.raises(UserError, match="pairs must be at least 1, got 0"):
        PeopleConfig(pairs=0)
    with pytest.raises(UserError, match=r"person_pattern='\(' is no regular expression: missing \)"):
        PeopleConfig(person_pattern="(")
    with pytest.raises(UserError, match="no action is known; put the videos into one sub-folder per action"):
        work.People(config(films / "down", pipeline), autoencoder(pipeline))


def test_a_model_of_other_clips_is_refused_before_a_film_is_read(films, pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(ClipReader, "read", lambda *_, **__: pytest.fail("a film was read"))
    tiny_pipeline(names=ACTIONS, num_frames=4, sample_size=SIDE).save_pretrained(tmp_path / "short")
    tiny_pipeline(names=(*ACTIONS, "up"), num_frames=FRAMES, sample_size=SIDE).save_pretrained(tmp_path / "more")
    short = str(tmp_path / "short" / "vae")
    with pytest.raises(UserError, match="takes clips of at least 9 frames, .*short/vae takes 4"):
        work.measure(config(films, pipeline, checkpoints=[short]))
    with pytest.raises(
        UserError, match="clips of one size, but .*vae takes 12 frames of 32 pixels; .*short takes 4 fr"
    ):
        work.measure(config(films, pipeline, pipeline=tmp_path / "short"))
    with pytest.raises(
        UserError, match="the pipeline samples down, right, up, but the videos are of down, right: give"
    ):
        work.measure(config(films, pipeline, pipeline=tmp_path / "more"))


@pytest.mark.parametrize(
    "people, contents", [("training", ["person01", "person02", "person03"]), ("held-out", ["person03"])]
)
def test_one_person_alone_exchanges_nothing(films, pipeline, monkeypatch, people, contents):
    monkeypatch.setattr(ClipReader, "read", lambda *_, **__: pytest.fail("a film was read"))
    with pytest.raises(UserError, match=rf"no two {people} videos .* \(people: 1, actions: 2\); --held-out-contents"):
        work.People(config(films, pipeline, held_out_contents=contents), autoencoder(pipeline))


def test_what_one_person_does_and_one_film_shows(other_films, pipeline):
    """The judges are not asked for what they cannot know; nobody is in two films."""
    for path in ("down/person00", "right/person01", "down/person02", "right/person03"):
        (other_films / f"{path}.mp4").unlink()
    film(other_films / "up" / "person04.mp4", "down", (9, 9, 9))
    found = work.People(config(other_films, pipeline), autoencoder(pipeline)).judges()
    assert found == work.Judges(1.0, {}, None), "the one film of `up` shows what others do as `down`"
    assert "judge of looks, videos left out: not measured" in work.judge_text(found)


def test_a_film_that_cannot_be_read_is_left_out_and_named(other_films, pipeline, capsys):
    (other_films / "down" / "person00.mp4").write_bytes(b"")
    film(other_films / "down" / "person04.mp4", "down", (9, 9, 9), frames=3)
    clips = work.People(config(other_films, pipeline), autoencoder(pipeline)).clips
    assert len(clips) == 2 * 7
    printed = capsys.readouterr().out
    assert "skipped: " in printed and "down/person00.mp4: the file is empty" in printed and "too short" in printed
    for name in ("person02", "person03"):
        (other_films / "right" / f"{name}.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"no two held-out videos that can be read .* \(people: 2, actions: 1\)"):
        work.People(config(other_films, pipeline), autoencoder(pipeline))


def test_an_action_that_held_out_people_do_not_do_is_not_measured(other_films, pipeline, tmp_path):
    """As many held-out as training clips, of other actions: each set is told apart by its own labels."""
    for name in ("person00", "person01"):
        film(other_films / "up" / f"{name}.mp4", "down", COLOURS[name])
    film(other_films / "right" / "person04.mp4", "right", (9, 9, 9))
    film(other_films / "right" / "person05.mp4", "right", (200, 9, 200))
    names = ("down", "right", "up")
    tiny_pipeline(names=names, independent_times=True, num_frames=FRAMES, sample_size=SIDE).save_pretrained(
        tmp_path / "pipe"
    )
    held_out = ["person02", "person03", "person04", "person05"]
    settings = {"checkpoints": [str(tmp_path / "pipe" / "vae")], "pipeline": tmp_path / "pipe", "clips_per_video": 1}
    settings |= {"held_out_contents": held_out, "seeds": 1, "num_inference_steps": 1}
    found, _ = work.measure(config(other_films, pipeline, **settings))
    sets = {(row.sets, row.action): row for row in found.distances}
    assert sets["held-out people", "all"].clips == sets["samples", "all"].clips == 6
    clips = {action: sets["held-out people", action].clips for action in names}
    assert clips == {"down": 2, "right": 2, "up": 0}, "of training clips there are two of each"
    assert sets["held-out people", "up"].fvd == [] and len(sets["held-out people", "right"].kvd) == 1
    assert sets["other moments of the same videos", "all"].fvd == []
    given = {row.given: row.by_action for row in found.samples}
    assert given["held-out"]["down"] is None and given["held-out"]["up"] is not None
    assert "| held-out people | up | 0 | not measured | not measured |" in work.tables(found)
    assert "NaN" not in json.dumps(asdict(found))


def test_the_classes_of_a_pipeline_are_compared_by_their_ids(tmp_path):
    names = tuple(f"action {number}" for number in range(11))
    tiny_pipeline(names=names).save_pretrained(tmp_path)  # "10" comes before "2" in the file
    pipe = VidTwinDiffusionPipeline.from_pretrained(tmp_path)
    check_classes(pipe, names)
    with pytest.raises(UserError, match="the pipeline samples action 0, action 1, "):
        check_classes(pipe, names[::-1])
