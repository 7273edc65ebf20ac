"""What is shipped: small, of safe formats, whole, and with a card that says where it comes from."""

import pytest
import torch

from autoencoder.data.shapes import CLASS_NAMES
from pipelines import VidTwinDiffusionPipeline, pretrained
from pipelines.folders import pretrained_names

MAX_BYTES = 8_000_000
FORMATS = {".json", ".md", ".safetensors"}

pytestmark = [
    pytest.mark.skipif(not pretrained_names(), reason="no weights are committed yet"),
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # in diffusers' schedulers
]


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
    assert {parameter.dtype for model in (pipe.vae, pipe.transformer) for parameter in model.parameters()} == {
        torch.float32
    }
    frames = pipe(list(CLASS_NAMES), num_inference_steps=2, generator=0).frames
    assert frames.shape == (10, 16, 32, 32, 3) and frames.std() > 0.05
    assert pipe.transformer.config.independent_times
