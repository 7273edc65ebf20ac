"""The goals of a pipeline of moving shapes, measured on pipelines whose answer is known."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fake_codecs import DynamicsCodec, PerfectCodec
from tiny_models import tiny_pipeline

from autoencoder.codec import encode_clips
from autoencoder.data.shapes import CLASS_NAMES, Shapes
from autoencoder.latents import VidTwinLatents
from pipelines.goal_table import GOALS, exchange_table, goal_table
from pipelines.goals import FIGURES, FIRST_SEED, Findings, GoalSettings, JudgedClips, measure_goals

SETTINGS = GoalSettings(samples_per_class=1, exchanged_pairs=3, held_out_clips=10, num_inference_steps=1)
HELD_OUT = Shapes(8, 32, "val")


class PipelineOfRealClips:
    """Samples the latents of training clips of the class asked for, or of the next class."""

    def __init__(self, vae, wrong: bool = False, independent_times: bool = True):
        self.vae, self.wrong, self.seeds = vae, wrong, []
        names = {str(label): name for label, name in enumerate(CLASS_NAMES)}
        self.transformer = SimpleNamespace(config=SimpleNamespace(id2label=names, independent_times=independent_times))

    def set_progress_bar_config(self, disable: bool) -> None:
        assert disable

    def __call__(
        self, classes, num_inference_steps, guidance_scale, generator, output_type, structure=None, dynamics=None
    ):
        assert (num_inference_steps, guidance_scale, output_type) == (1, 2.0, "latent")
        self.seeds.append(generator)
        clips = [Shapes(8, 32, "train").clip((label + 3 * self.wrong) % 10) for label in classes]
        latents = encode_clips(self.vae, torch.stack(clips))
        frames = VidTwinLatents(
            latents.structure if structure is None else structure.structure,
            latents.dynamics if dynamics is None else dynamics.dynamics,
        )
        return SimpleNamespace(frames=frames)


@pytest.fixture(scope="module")
def codec() -> PerfectCodec:
    return PerfectCodec(HELD_OUT, Shapes(8, 32, "train"), count=1000)


@pytest.fixture(scope="module")
def perfect(codec) -> Findings:
    return measure_goals(PipelineOfRealClips(codec), SETTINGS)


def leaking_codec() -> DynamicsCodec:
    codec = DynamicsCodec(32)
    codec.config = SimpleNamespace(num_frames=8, sample_size=32)
    return codec


def test_a_perfect_pipeline_reaches_all(perfect):
    assert {**perfect.figures, "psnr": None} == dict.fromkeys(FIGURES, 1.0) | {"psnr": None}
    assert perfect.figures["psnr"] > 50
    assert perfect.real == dict.fromkeys(FIGURES, 1.0)
    assert perfect.unsampled.keys() == FIGURES.keys() - {"reconstructions"}
    assert set(perfect.unsampled.values()) == {1.0}
    assert perfect.exchanged["dynamics"]["path_distance"] < 0.5 < perfect.exchanged["structure"]["path_distance"]


def test_samples_of_other_classes_are_seen(codec):
    pipe = PipelineOfRealClips(codec, wrong=True)
    found = measure_goals(pipe, SETTINGS)
    wrong = {"samples", "dynamics_motion", "structure_shape"}
    assert {key for key in FIGURES if found.figures[key] == 0} == wrong
    assert all(found.figures[key] == 1 for key in FIGURES.keys() - wrong), "what the given latent carries is kept"
    assert set(found.unsampled.values()) == {1.0}
    assert pipe.seeds == [FIRST_SEED] * 3


def test_an_autoencoder_with_everything_in_dynamics_is_seen():
    found = measure_goals(PipelineOfRealClips(leaking_codec()), SETTINGS)
    assert found.figures["exchange_content"] == 0 and found.figures["exchange_motion"] == 1
    assert found.figures["samples"] == found.figures["reconstructions"] == 1
    assert found.figures["structure_shape"] == found.unsampled["structure_shape"] == 0
    assert found.unsampled["exchange_content"] == 1, "not exchanged"
    assert found.exchanged["dynamics"]["content"] == 1


def test_what_is_right_is_told_of_every_clip(perfect):
    assert perfect.kinds.keys() == {"reconstructions", "exchange", "samples", "dynamics", "structure"}
    for name, kind in perfect.kinds.items():
        assert len(kind.decoded.clips) == len(kind.decoded.right) == (6 if name == "exchange" else 10)
        assert all(len(clips) == len(kind.decoded.clips) for clips in kind.sources.values())
    assert perfect.kinds["samples"].decoded.class_names == list(CLASS_NAMES)
    asked = perfect.kinds["dynamics"].decoded.class_names
    assert asked[:3] == ["circle_vertical", "circle_horizontal", "square_vertical"]


def test_without_independent_times_no_latent_can_be_given(codec):
    found = measure_goals(PipelineOfRealClips(codec, independent_times=False), SETTINGS)
    missing = {key for key, (kind, _) in FIGURES.items() if kind in ("dynamics", "structure")}
    assert len(missing) == 4 and FIGURES.keys() - found.figures.keys() == missing
    captions = {GOALS[key].caption for key in missing}
    rows = [line.split("|") for line in goal_table({"x": [found]}).splitlines()]
    assert captions <= {row[1].strip() for row in rows if row[-2].strip() == "not measured"}


def test_a_real_pipeline_is_measured_twice_alike():
    pipe = tiny_pipeline(names=CLASS_NAMES, independent_times=True, num_frames=8, sample_size=32)
    pipe.vae.eval()
    first, second = (measure_goals(pipe, SETTINGS) for _ in range(2))
    assert first.figures == second.figures and first.figures.keys() == {*FIGURES, "psnr"}
    for name, kind in first.kinds.items():
        assert torch.equal(kind.decoded.clips, second.kinds[name].decoded.clips)


def test_the_table_sets_pipelines_beside_the_goals(perfect):
    other = Findings({"exchange_content": 0.225, "psnr": 23.5}, {"exchange_content": 0.81})
    lines = goal_table({"one": [perfect], "seeds": [other, Findings({"exchange_content": 0.25})]}).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == ["", "goal, from scratch", "goal, trained long", "real clips", "one", "seeds"]
    assert [row[0] for row in cells[2:]] == [goal.caption for goal in GOALS.values()]
    rows = {row[0]: row[1:] for row in cells}
    assert rows["exchange of real latents: content of S"] == [
        "60 %",
        "90 %",
        "100 %",
        "100 %, *100 %*",
        "23.8 % (22.5, 25), *81 %*",
    ]
    assert rows["sprites, content exchanged: action kept"] == ["", "99.5 %", "", "not measured", "not measured"]
    assert rows["reconstruction: PSNR"][:2] == ["24 dB", "30 dB"] and rows["reconstruction: PSNR"][4] == "23.50 dB"
    assert len({len(line) for line in lines}) == 1


def test_the_table_of_the_exchange_shows_both_sources(perfect):
    nowhere = {"shape": 0.5, "background": 0.0, "colour": 0.0, "content": 0.0, "axis": 0.0, "path_correlation": 0.0}
    other = Findings({}, exchanged=dict.fromkeys(("structure", "dynamics"), nowhere | {"path_distance": None}))
    text = exchange_table({"one": [perfect], "two": [other, perfect], "none": [other], "sprites": [Findings({})]})
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines()}
    assert rows["exchanged clips: as the clip of S / of D"] == ["one", "two", "none"]
    assert rows["shape"] == ["100 / 0 %", "75 / 25 %", "50 / 50 %"]
    assert rows["axis"] == ["0 / 100 %", "0 / 50 %", "0 / 0 %"]
    assert rows["path: correlation along the axis"][0].endswith(" / 1.00")
    assert rows["path: pixels away"][2] == "not measured / not measured"
    assert rows["path: pixels away"][0] == rows["path: pixels away"][1], "of those with a path"


def test_shares_by_class():
    names = ["ring_vertical", "ring_vertical", "cross_vertical", "ring_vertical"]
    right = [{"both": is_right} for is_right in (True, False, True, True)]
    clips = JudgedClips(torch.zeros(4, 8, 32, 32, 3), right, names)
    assert clips.by_class() == {"ring_vertical": pytest.approx(2 / 3), "cross_vertical": 1.0}


def test_all_figures_have_a_goal():
    assert FIGURES.keys() | {"psnr"} == {key for key in GOALS if not key.startswith("sprites")}


def test_wrong_settings_and_pipelines(codec):
    with pytest.raises(ValueError, match="samples_per_class must be at least 1, got 0"):
        GoalSettings(samples_per_class=0)
    with pytest.raises(ValueError, match="held_out_clips must be at most 1000, got 1001: there are no more clips"):
        GoalSettings(held_out_clips=1001)
    with pytest.raises(ValueError, match="samples_per_class must be at most 99, got 100"):
        GoalSettings(samples_per_class=100)
    pipe = PipelineOfRealClips(codec)
    with pytest.raises(ValueError, match="500 pairs of held-out clips are asked for"):
        measure_goals(pipe, replace(SETTINGS, exchanged_pairs=500))
    pipe.transformer.config.id2label = {"0": "walking"}
    with pytest.raises(ValueError, match="the goals are for moving shapes, of the classes circle_horizontal, "):
        measure_goals(pipe, SETTINGS)
