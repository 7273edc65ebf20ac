"""What is shipped: small, of safe formats, whole, and with a card that says where it comes from."""

import pytest
import torch
import yaml

from autoencoder.data.shapes import CLASS_NAMES
from pipelines import VidTwinDiffusionPipeline, pretrained
from pipelines.goal_table import card_figures
from pipelines.model_card import STAGE, model_card
from pipelines.shipping import MAX_BYTES, PLACES, preset_of

FORMATS = {".json", ".md", ".safetensors", ".yaml"}

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers' schedulers


@pytest.fixture(scope="module")
def pipe() -> VidTwinDiffusionPipeline:
    pipe = VidTwinDiffusionPipeline.from_pretrained(pretrained("shapes"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_small_and_holds_no_code():
    files = [path for path in pretrained("shapes").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert {path.suffix for path in files} == FORMATS


def test_it_samples_every_class_by_name(pipe):
    dtypes = {parameter.dtype for model in (pipe.vae, pipe.transformer) for parameter in model.parameters()}
    assert dtypes == {torch.float32}
    frames = pipe(list(CLASS_NAMES), num_inference_steps=2, generator=0).frames
    assert frames.shape == (10, 16, 32, 32, 3) and frames.std() > 0.05
    assert pipe.transformer.config.independent_times


def test_the_card_says_how_it_was_made_and_what_it_reaches(pipe):
    training = pipe.config.training
    for stage, facts in training["stages"].items():
        assert all(facts[key] not in (None, "") for key in STAGE), stage
        settings = yaml.safe_load((pretrained("shapes") / f"{stage}.yaml").read_text())
        assert facts["preset"] == (preset_of(stage.split("_")[0], settings) or "none")
        assert not PLACES & settings.keys()
    assert not [name for name in card_figures(None) if training["metrics"][name].startswith("not measured")]
    card = (pretrained("shapes") / "README.md").read_text()
    assert sorted(card.splitlines()) == sorted(model_card(pipe).splitlines())  # JSON has its keys in another order
