"""The card of a saved pipeline: what it says, that its code runs, and whose it is."""

import json
import logging
import re

import pytest
from diffusers import DiffusionPipeline
from tiny_models import NAMES, tiny_pipeline

from pipelines import VidTwinDiffusionPipeline
from pipelines.model_card import MARK, add_metrics, model_card

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers' schedulers

TRAINING = {
    "data": "shapes",
    "videos": 9000,
    "steps": 3900,
    "batch_size": 64,
    "date": "2026-11-25",
    "fps": 8.0,
    "metrics": {"held-out loss": 0.51234},
}


def with_training(**training) -> VidTwinDiffusionPipeline:
    return VidTwinDiffusionPipeline(**tiny_pipeline().components, training=TRAINING | training)


def test_a_card_says_what_is_known_and_what_is_not():
    pipe = tiny_pipeline()
    card = model_card(pipe)
    parameters = sum(p.numel() for p in pipe.transformer.parameters())
    for text in (
        *(f"{index} `{name}`" for index, name in enumerate(NAMES)),
        "4 frames of 16 x 16 pixels, rate not recorded",
        f"{pipe.vae.compression_rate:.2%} of the clip's",
        f"{parameters:,} transformer",
        "| steps | not recorded |",
        "| FVD | not measured |",
        "MIT licence",
    ):
        assert text in card, text
    known = model_card(with_training())
    for text in (
        "at 8 per second",
        "| steps | 3,900 |",
        "| data | shapes |",
        "| held-out loss | 0.5123 |",
        "2026-11-25",
    ):
        assert text in known, text
    assert "| FVD | not measured |" in known


def test_the_code_of_a_card_runs_in_its_folder(tmp_path, monkeypatch):
    with_training().save_pretrained(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert (tmp_path / "sample.mp4").stat().st_size


def test_what_is_known_of_the_training_is_saved_with_the_pipeline(tmp_path, caplog):
    with_training().save_pretrained(tmp_path / "a")
    logging.getLogger("diffusers").addHandler(caplog.handler)
    try:
        pipe = DiffusionPipeline.from_pretrained(tmp_path / "a")
    finally:
        logging.getLogger("diffusers").removeHandler(caplog.handler)
    assert pipe.config.training == TRAINING and set(pipe.components) == {"vae", "transformer", "scheduler"}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    pipe.save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "README.md").read_text() == (tmp_path / "a" / "README.md").read_text()
    assert VidTwinDiffusionPipeline.from_pipe(pipe).config.training == TRAINING
    tiny_pipeline().save_pretrained(tmp_path / "c")
    assert "training" not in json.loads((tmp_path / "c" / "model_index.json").read_text())


def test_a_card_by_hand_is_kept_and_ours_is_written_anew(tmp_path):
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "ours")
    with_training().save_pretrained(tmp_path / "ours")
    assert "3,900" in (tmp_path / "ours" / "README.md").read_text()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "README.md").write_bytes(b"# By hand \xff\n")
    pipe.save_pretrained(tmp_path / "theirs")
    assert (tmp_path / "theirs" / "README.md").read_bytes() == b"# By hand \xff\n"
    assert VidTwinDiffusionPipeline.from_pretrained(tmp_path / "theirs").transformer.config.num_classes == 3


@pytest.mark.parametrize("name", ["a | b", 'it\'s "quoted"', "`code`", "two\nlines", "bad \udcff byte"])
def test_class_names_of_any_kind(tmp_path, name):
    pipe = tiny_pipeline(names=(name, "other"))
    card = model_card(pipe)
    assert len(re.findall(r"^## ", card, re.MULTILINE)) == 5 and "1 `other`" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    compile(code.encode("utf-8", "backslashreplace").decode(), "card", "exec")


def test_metrics_are_noted_in_a_saved_pipeline(tmp_path):
    with_training().save_pretrained(tmp_path)
    before = json.loads((tmp_path / "model_index.json").read_text())
    pipe = VidTwinDiffusionPipeline.from_pretrained(tmp_path)
    add_metrics(pipe, tmp_path, {"FVD": "12.3 ± 0.4"})
    card = (tmp_path / "README.md").read_text()
    assert MARK in card and "| FVD | 12.3 ± 0.4 |" in card and "| held-out loss | 0.5123 |" in card
    after = json.loads((tmp_path / "model_index.json").read_text())
    assert after.pop("training")["metrics"] == {"FVD": "12.3 ± 0.4", "held-out loss": 0.51234}
    before.pop("training")
    assert after == before
