"""The Sprites half of the benchmark of separation: its rows, its notes, and what it refuses."""

from dataclasses import asdict

import pytest
import torch
from made_up_sprites import write_file
from tiny_models import noise_latents, tiny_pipeline

from autoencoder.common.errors import ExistingFileError, UserError
from autoencoder.data.sprites import Sprites
from autoencoder.metrics.sprites_judge import SpritesJudge, load_judge, save_judge
from benchmarks import sprites_judge
from benchmarks.published import PUBLISHED, PublishedScores
from benchmarks.work import sprites_separation
from benchmarks.work.sprites_judge import measure_judge, split_fingerprint
from benchmarks.work.sprites_separation import JudgedSprites, line, published_table


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """A file of three training and two held-out characters."""
    return str(write_file(tmp_path_factory.mktemp("data") / "sprites.npz", num_train=3, num_held_out=2))


@pytest.fixture
def judge_folder(data, tmp_path):
    torch.manual_seed(0)
    judge, held_out = SpritesJudge(width=4), Sprites(data, split="val")
    record = {"test_clips": split_fingerprint(held_out), "scores": asdict(measure_judge(judge, held_out))}
    save_judge(judge, tmp_path / "judge", record)
    return tmp_path / "judge"


def test_the_command_trains_measures_and_saves(data, tmp_path, capsys):
    arguments = ["--data-root", data, "--out", str(tmp_path / "judge"), "--width", "4", "--epochs", "1"]
    sprites_judge.main([*arguments, "--device", "cpu", "--seed", "7"])
    printed = capsys.readouterr().out
    assert "27 training clips, 18 held-out clips" in printed and "held-out accuracy: action " in printed
    judge, record = load_judge(tmp_path / "judge", "cpu")
    held_out = Sprites(data, split="val")
    assert record["scores"] == asdict(measure_judge(judge, held_out))
    assert record["test_clips"] == split_fingerprint(held_out) != record["train_clips"]
    assert record["settings"]["seed"] == 7 and len(record["weights"]) == 64
    with pytest.raises(ExistingFileError, match="exists already: give the name of a new folder"):
        sprites_judge.main(arguments)


def test_rows_of_an_autoencoder_and_of_the_samples_of_a_pipeline(data, judge_folder, tmp_path, capsys):
    judged = JudgedSprites(judge_folder, data, None, 0, "cpu")
    assert "on the held-out clips themselves: action " in judged.description
    pipe = tiny_pipeline(names=Sprites.class_names, num_frames=8, sample_size=32)
    checkpoint = tmp_path / "run-001/model"
    rows = judged.measure(checkpoint, pipe.vae.eval(), lambda count: noise_latents(pipe, count))
    printed = capsys.readouterr().out
    assert str(checkpoint) in printed and all(row.clips in printed for row in rows)
    assert len(rows) == 8 and {row.scores.num_clips for row in rows} == {18}
    assert len(judged.measure(checkpoint, pipe.vae)) == 6


def test_a_judge_of_other_clips_is_refused(data, judge_folder):
    save_judge(SpritesJudge(width=4), judge_folder, {"test_clips": "abc"})
    with pytest.raises(UserError, match="was measured on other clips than the held-out ones of .*sprites.npz"):
        JudgedSprites(judge_folder, data, None, 0, "cpu")


def test_published_figures_have_a_source_and_what_is_not_confirmed_says_so(monkeypatch):
    assert {"S3VAE", "C-DSVAE", "SPYL", "DBSE", "DiffSDA"} <= {scores.method for scores in PUBLISHED}
    assert all(scores.source for scores in PUBLISHED)
    some = (PublishedScores("known", "a paper", 0.5, 4.0, 0.25, 2.0), PublishedScores("unknown", "not at hand"))
    monkeypatch.setattr(sprites_separation, "PUBLISHED", some)
    table = [text.split() for text in published_table().splitlines()[2:]]
    assert table[0] == ["known", "50.00%", "4.000", "0.250", "2.000"] and table[1] == ["a", "paper"]
    assert table[2] == ["unknown", "not", "confirmed"]


def test_scores_that_were_not_asked_for_stay_empty_and_the_columns_stay_in_line():
    values = {"action": None, "inception_score": 9.0, "conditional_entropy": 0.0, "marginal_entropy": 2.197}
    attributes = dict.fromkeys(("skin", "trousers", "top", "hair"), 1.0)
    with_attributes, without = line("row", values | attributes), line("row", values | {"action": 1.0})
    assert len(with_attributes) == len(without) == len(sprites_separation.HEADER)
    assert with_attributes.split() == ["row", "9.000", "0.000", "2.197", *["100.00%"] * 4]
