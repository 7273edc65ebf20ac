"""The command that measures the separation, on codecs whose answer is known and on a small model."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from fake_codecs import DynamicsCodec, PerfectCodec
from made_up_sprites import write_file
from PIL import Image
from test_latent_cache import MODEL, make_autoencoder
from tiny_models import tiny_pipeline

from autoencoder import AutoencoderVidTwin
from autoencoder.codec import encode_clips
from autoencoder.data.shapes import CLASS_NAMES, Shapes
from autoencoder.data.sprites import Sprites
from autoencoder.metrics.sprites_judge import SpritesJudge, save_judge
from benchmarks import separation
from benchmarks.separation import SeparationConfig
from benchmarks.work.separation import comparison, measure, pictures, table, two_factor_scores
from benchmarks.work.separation_clips import ShapesClips, SpritesClips
from benchmarks.work.sprites_judge import measure_judge, split_fingerprint

CONFIG = SeparationConfig(checkpoints=["codec"], count=4, probe_clips=0)


@pytest.fixture(scope="module")
def perfect():
    return measure("perfect", PerfectCodec(Shapes(8, 32, "val"), count=1000), CONFIG, None)


@pytest.fixture(scope="module")
def leaking():
    codec = DynamicsCodec(32)
    codec.config = SimpleNamespace(num_frames=8, sample_size=32)
    return measure("leaking", codec, CONFIG, None)


def test_a_perfect_codec_reaches_all(perfect):
    rows = perfect.rows
    assert rows["structure"]["content"] == rows["dynamics"]["axis"] == 1
    assert rows["dynamics"]["path_correlation"] > 0.99 and rows["dynamics"]["path_distance"] < 0.5
    assert rows["structure"]["axis"] == rows["dynamics"]["content"] == 0
    for row in ("reconstructions", "renderings"):
        assert rows[row]["content"] == rows[row]["axis"] == 1 and rows[row]["path_distance"] < 0.5
    assert perfect.psnr > 50 and perfect.exchanged_psnr > 50
    assert perfect.nearness["content"] > 0.7 and perfect.nearness["motion"] > 0.5


def test_a_sheet_shows_both_sources_and_the_exchange():
    rows = pictures("perfect", PerfectCodec(Shapes(8, 32, "val"), count=1000), CONFIG)
    structure, dynamics, expected, own, exchanged = (torch.stack(clips) for _, clips in rows)
    assert len(structure) == 5 and not torch.equal(structure, dynamics)
    for actual, wanted in ((exchanged, expected), (own, structure)):
        assert (actual.float() - wanted.float()).abs().max() < 3


def test_a_codec_with_everything_in_dynamics_shows_it(leaking, perfect):
    rows = leaking.rows
    assert rows["structure"]["content"] == rows["structure"]["axis"] == 0
    assert rows["dynamics"]["content"] == rows["dynamics"]["axis"] == 1
    assert leaking.psnr == pytest.approx(80) and leaking.exchanged_psnr < 20
    assert leaking.nearness == {"content": pytest.approx(0, abs=1e-3), "motion": pytest.approx(1, abs=1e-3)}
    assert leaking.exchanged_score.score < 0.75 < perfect.exchanged_score.score


def test_sampled_latents_are_scored_like_exchanged_ones():
    """Those of other clips as samples: a perfect codec shows what is kept, and the samples' rest by chance."""
    codec = PerfectCodec(Shapes(8, 32, "val"), Shapes(8, 32, "train"), count=100)
    train = Shapes(8, 32, "train")

    def sample(count):
        return encode_clips(codec, torch.stack([train.clip(index + 3) for index in range(count)]))

    exchanged, sampled = two_factor_scores(codec, ShapesClips(CONFIG, 8, 32), 60, 0, sample)
    assert exchanged.score > 0.85
    assert sampled.accuracies["static"]["shape"] > 0.9 and sampled.accuracies["dynamic"]["axis"] > 0.9
    assert sampled.accuracies["static"]["axis"] < 0.1 and sampled.accuracies["dynamic"]["shape"] < 0.1, "never the same"
    assert two_factor_scores(codec, ShapesClips(CONFIG, 8, 32), 20, 0, None)[1] is None


def test_tables_say_what_was_not_measured(leaking, perfect):
    text = table(perfect)
    assert "MSD with sampled latents: not measured" in text and "probes: not measured" in text
    assert "MSD with exchanged latents: 0." in text and "(S kept: shape 100%, axis " in text
    assert "exchanged: as the clip of S" in text and "true renderings: as drawn" in text
    first, second, last = comparison([leaking, perfect]).splitlines()[1:]
    assert last == "perfect: how it differs from the first one beside exchange is not known"
    assert first.split() == ["leaking", "80.00", "0.00", "1.00", f"{leaking.exchanged_psnr:.2f}", "0%", "100%"]
    price = leaking.psnr - perfect.psnr
    assert second.split()[:4] == ["perfect", f"{perfect.psnr:.2f}", f"{price:.2f}", f"{10 ** (price / 10):.2f}"]


def test_a_model_without_dynamics_has_no_probe_of_it():
    model = AutoencoderVidTwin(**MODEL | {"dynamics_channels": 0}).eval()
    found = measure("one latent", model, SeparationConfig(checkpoints=["x"], count=1, probe_clips=100))
    assert all(row.keys() == {"structure"} for row in found.probes.values())
    assert found.nearness == {"content": None, "motion": None}, "both sources of an exchange decode to the same"
    (line,) = (line for line in table(found).splitlines() if line.startswith("place"))
    assert "not measured" in line


def test_exchanged_shapes_stay_within_the_frame():
    exchange = ShapesClips(CONFIG, 8, 32).exchange()
    assert exchange.clips.shape == exchange.rendered.shape == (8, 8, 32, 32, 3)
    assert exchange.dynamics_of == [4, 5, 6, 7, 0, 1, 2, 3]
    for index, clip in enumerate(exchange.rendered):
        content = exchange.truths[index]
        strength = (clip / 255 - torch.from_numpy(content.background)).norm(dim=-1)
        contrast = torch.from_numpy(content.colour - content.background).norm()
        area = (strength / contrast).sum(dim=(1, 2))  # (T,)
        assert (area.min() / area.max()).item() > 0.97
    other = ShapesClips(SeparationConfig(checkpoints=["x"], count=4, seed=1), 8, 32).exchange()
    assert not torch.equal(exchange.clips, other.clips)
    again = ShapesClips(CONFIG, 8, 32).exchange()
    assert torch.equal(exchange.clips, again.clips)


def test_labels_of_probes():
    data = Shapes(8, 32, "train")
    clips, labels = ShapesClips(CONFIG, 8, 32).labelled("train", 30)
    assert torch.equal(clips[7], data.clip(7)) and labels.keys() == {"shape", "background", "colour", "axis", "place"}
    assert labels["shape"].tolist() == [index % 10 // 2 for index in range(30)]
    assert labels["axis"].tolist() == [index % 2 for index in range(30)]
    for index in range(30):
        column, row = ((data.motion(index).path.mean(axis=0)[:, None] / 32) > [0.46, 0.54]).sum(axis=1)
        assert labels["place"][index] == 3 * row + column
        bits = [int(channel >= 0.5) for channel in data.content(index).background]
        assert labels["background"][index] == 4 * bits[0] + 2 * bits[1] + bits[2]


class MadeUpSprites:
    """Six characters, one value of every attribute each, in three actions."""

    def __len__(self):
        return 18

    def character(self, index):
        return index // 3

    def label(self, index):
        return index % 3

    def attributes(self, index):
        return (self.character(index),) * 4

    def clip(self, index, rng):
        return torch.full((8, 32, 32, 3), index, dtype=torch.uint8)


def test_sprites_are_exchanged_with_the_clip_that_shows_both(monkeypatch):
    monkeypatch.setattr("benchmarks.work.separation_clips.DataConfig.build", lambda *_: MadeUpSprites())
    exchange = SpritesClips(CONFIG, 8, 32).exchange()
    ids = exchange.clips[:, 0, 0, 0, 0].tolist()
    assert len(set(ids)) == 8 and exchange.truths is None
    for index, rendered in zip(ids, exchange.rendered[:, 0, 0, 0, 0].tolist(), strict=True):
        motion = ids[exchange.dynamics_of[ids.index(index)]]
        assert motion // 3 != index // 3 and motion % 3 != index % 3
        assert rendered == index // 3 * 3 + motion % 3
    _, labels = SpritesClips(CONFIG, 8, 32).labelled("train", 12)
    assert labels.keys() == {"skin", "trousers", "top", "hair", "action"} and len(labels["hair"]) == 12
    monkeypatch.setattr(MadeUpSprites, "__len__", lambda self: 17)  # the last character lacks an action
    ids = SpritesClips(CONFIG, 8, 32).exchange().rendered[:, 0, 0, 0, 0].tolist()
    assert len(ids) == 8 and 17 not in ids
    with pytest.raises(ValueError, match="50 pairs of held-out clips are asked for, only 8 differ in all"):
        SpritesClips(SeparationConfig(checkpoints=["x"], count=50), 8, 32).exchange()


def test_the_command_writes_what_it_measured(tmp_path, capsys):
    tiny_pipeline(names=CLASS_NAMES, num_frames=8, sample_size=32).save_pretrained(tmp_path / "pipeline")
    model = make_autoencoder(seed=1)
    torch.nn.init.normal_(model.decoder.proj_out.weight, std=0.1)
    model.save_pretrained(tmp_path / "model")
    arguments = ["--checkpoint", str(tmp_path / "model"), "--pipeline", str(tmp_path / "pipeline"), "--count", "3"]
    arguments += ["--num-inference-steps", "1", "--probe-clips", "100", "--device", "cpu"]
    arguments += ["--sheet", str(tmp_path / "sheet.png")]
    separation.main([*arguments, "--output", str(tmp_path / "found.json")])
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.height > 35 * 32, "three rows of sources, then two of each autoencoder, of five clips"
    report = json.loads((tmp_path / "found.json").read_text())
    first, second = report["results"]
    assert (report["benchmark"], report["dataset"]) == ("separation", "shapes")
    assert first["checkpoint"] == str(tmp_path / "model") and second["checkpoint"] == str(tmp_path / "pipeline")
    assert first["exchanged_clips"] == 6 and first["sampled_score"] is None
    assert 0 <= second["sampled_score"]["score"] <= 1
    assert first["probes"]["shape"]["dynamics"].keys() == {"accuracy", "chance"}
    printed = capsys.readouterr().out
    assert "sampled latents: not measured" in printed and "from S" in printed and "price, dB" in printed


def test_sprites_with_a_judge(tmp_path, capsys):
    data = str(write_file(tmp_path / "sprites.npz", num_train=12, num_held_out=2))
    torch.manual_seed(0)
    judge, held_out = SpritesJudge(width=4), Sprites(data, split="val")
    record = {"test_clips": split_fingerprint(held_out), "scores": asdict(measure_judge(judge, held_out))}
    save_judge(judge, tmp_path / "judge", record)
    pipe = tiny_pipeline(names=Sprites.class_names, num_frames=8, sample_size=32)
    pipe.save_pretrained(tmp_path / "pipeline")
    pipe.vae.save_pretrained(tmp_path / "model")
    arguments = ["--checkpoint", str(tmp_path / "model"), "--dataset", "sprites", "--data-root", data, "--count", "2"]
    arguments += ["--probe-clips", "100", "--num-inference-steps", "1", "--device", "cpu"]

    separation.main([*arguments, "--output", str(tmp_path / "found.json")])
    (result,) = json.loads((tmp_path / "found.json").read_text())["results"]
    assert result["rows"] is result["judged"] is result["exchanged_score"] is None
    assert result["probes"].keys() == {"skin", "trousers", "top", "hair", "action"}
    assert "two-factor score of MSD with exchanged latents: not measured" in capsys.readouterr().out

    arguments += ["--judge", str(tmp_path / "judge"), "--judged-clips", "18", "--pipeline", str(tmp_path / "pipeline")]
    separation.main([*arguments, "--output", str(tmp_path / "found.json")])
    (again,) = json.loads((tmp_path / "found.json").read_text())["results"]
    assert again["checkpoint"] == str(tmp_path / "model"), "the pipeline's autoencoder is not measured twice"
    assert len(again["judged"]) == 8 and again["exchanged_score"]["score"] >= 0
    assert again["sampled_score"]["accuracies"]["static"].keys() == result["probes"].keys()
    assert "Published, with the motion kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "nothing to measure: give folders of autoencoders by --checkpoint, or a --pipeline"),
        ({"checkpoints": ["x"], "judge": "y"}, "a judge is for --dataset sprites; the oracle judges shapes"),
        ({"checkpoints": ["x"], "judged_clips": 0}, "judged_clips must be at least 1, got 0"),
        ({"checkpoints": ["x"], "count": 0}, "count must be at least 1, got 0"),
        ({"checkpoints": ["x"], "probe_clips": 7}, "probe_clips must be at least 100, or 0 for no probes, got 7"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SeparationConfig(**settings)


def test_more_pairs_than_there_are():
    with pytest.raises(ValueError, match=r"500 pairs of held-out clips are asked for, only \d+ differ in all"):
        ShapesClips(SeparationConfig(checkpoints=["x"], count=500), 8, 32).exchange()
