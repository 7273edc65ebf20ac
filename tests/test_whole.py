"""Folders of models that are damaged in every way are refused in one line, by whatever reads them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_pipeline

from autoencoder import AutoencoderVidTwin
from autoencoder.checkpoint import load_autoencoder
from autoencoder.common.whole import DamagedModelError
from generator import VidTwinDiT, train
from pipelines import VidTwinDiffusionPipeline

WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
Change = Callable[[Path], None]


def weights(change: Callable[[dict], dict]) -> Change:
    return lambda folder: save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


def settings(**new) -> Change:
    def change(folder: Path) -> None:
        (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | new))

    return change


def cut(name: str, size: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


DAMAGES = {
    "lacks weights of a model of its config.json: structure_in.weight": weights(
        lambda given: {name: weight for name, weight in given.items() if name != "structure_in.weight"}
    ),
    "has weights that no model of its config.json has: foo": weights(lambda given: given | {"foo": torch.ones(2)}),
    "structure_in.weight expected shape .*32, 4.*, but got .*3, 3": weights(
        lambda given: given | {"structure_in.weight": torch.ones(3, 3)}
    ),
    "weights are NaN or infinite: structure_in.bias$": weights(
        lambda given: given | {"structure_in.bias": torch.full((32,), torch.nan)}
    ),
    "Unable to load weights": cut(WEIGHTS, 3000),
    "Unable to load weights from": cut(WEIGHTS, 0),
    "no file named diffusion_pytorch_model.safetensors": lambda folder: (folder / WEIGHTS).unlink(),
    "not a valid JSON file": cut(CONFIG, 100),
    "expected shape .*64.*, but got .*32": settings(hidden_size=64),
    "hidden_size": settings(hidden_size="x"),
    "id2label must name the ids 0 to 2": settings(id2label={"0": "a"}),
    "'list' object": settings(id2label=["a", "b", "c"]),
    "structure_mean must hold 2 numbers": settings(structure_mean=[1.0, 2.0, 3.0]),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_transformer_is_no_transformer(tmp_path, message):
    tiny_pipeline().save_pretrained(tmp_path)
    folder = tmp_path / "transformer"
    DAMAGES[message](folder)
    for read, source in ((VidTwinDiT, folder), (VidTwinDiffusionPipeline, tmp_path)):
        if message == "hidden_size":
            message = "holds no whole VidTwinDiT: "  # in whatever words Python has for it
        with pytest.raises(DamagedModelError, match=message) as caught:
            read.from_pretrained(source)
        assert str(caught.value).startswith(f"{folder} holds no whole VidTwinDiT: ")
        assert "\n" not in str(caught.value) and isinstance(caught.value, OSError)


def test_nothing_is_unpickled(tmp_path):
    pipe = tiny_pipeline()
    pipe.vae.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(DamagedModelError, match="no file named diffusion_pytorch_model.safetensors"):
        load_autoencoder(tmp_path, "cpu")


def test_what_is_told_of_reading_is_told_still(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    model, info = AutoencoderVidTwin.from_pretrained(tmp_path, subfolder="vae", output_loading_info=True)
    assert isinstance(model, AutoencoderVidTwin) and not info["missing_keys"]
    with pytest.raises(OSError, match="nowhere"):
        VidTwinDiT.from_pretrained(tmp_path / "nowhere")


def test_an_adapted_transformer_that_was_saved_by_itself_is_not_read_with_random_weights(tmp_path):
    pytest.importorskip("peft")
    from generator.lora import add_lora

    model = tiny_pipeline().transformer
    add_lora(model, 2, None, ["attention"], [])
    model.save_pretrained(tmp_path)
    with pytest.raises(DamagedModelError, match=r"lacks weights .*: blocks.0.attention.proj.bias, "):
        VidTwinDiT.from_pretrained(tmp_path)


def test_a_run_does_not_start_from_a_damaged_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_pipeline(sample_size=32).save_pretrained("base")
    cut(WEIGHTS, 3000)(Path("base/transformer"))
    flags = ["--dataset=shapes", "--init-from=base", "--init-missing", "--objective.kind=flow", "--max-videos=2"]
    with pytest.raises(DamagedModelError, match="^base/transformer holds no whole VidTwinDiT: Unable to load weights"):
        train.main([*flags, "--output-dir=run"])
    assert not Path("run").exists()
