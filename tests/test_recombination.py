"""One latent given, the other sampled: partners, shares, and what stays as it was."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_latent_cache import make_autoencoder

from autoencoder.data.shapes import CLASS_NAMES, Shapes
from generator import VidTwinDiT
from generator.objective import make_scheduler
from pipelines import VidTwinDiffusionPipeline, recombination, recombine
from pipelines.recombination import GIVEN, Recombination, Sources, tabulate

COUNT = 10


@pytest.fixture
def sources() -> Sources:
    return Sources(make_autoencoder(), Shapes(8, 32, "val"), COUNT)


@pytest.mark.parametrize(
    "given, same", [(None, (True, True)), ("structure", (True, False)), ("dynamics", (False, True))]
)
def test_partners_share_what_the_given_latent_is_to_carry(sources, given, same):
    for pair in enumerate(sources.partners(given)):
        (shape, motion), (other_shape, other_motion) = (CLASS_NAMES[sources.labels[i]].split("_") for i in pair)
        assert (shape == other_shape, motion == other_motion) == same


def test_shares_and_ceilings_of_decoders_whose_answer_is_known(sources, monkeypatch):
    def decoder(clips):
        return lambda vae, latents, part="both": sources.clips[torch.tensor(clips)]

    partners = sources.partners("structure")
    monkeypatch.setattr(recombination, "decode_clips", decoder(partners))
    assert sources.real("structure").shape == sources.real("structure").motion == 1.0
    monkeypatch.setattr(
        recombination, "decode_clips", decoder(range(COUNT))
    )  # always the clip that gives the structure
    ceiling = sources.real("structure")
    assert (ceiling.shape, ceiling.motion, ceiling.both, ceiling.source) == (1.0, 0.0, 0.0, pytest.approx(80.0))
    assert sources.carried() == {
        "structure": {"shape": 1.0, "content": 1.0, "motion": 1.0},
        "dynamics": {"shape": 0.0, "content": 0.0, "motion": 0.0},
    }


@pytest.fixture
def pipe(sources) -> VidTwinDiffusionPipeline:
    torch.manual_seed(0)
    vae = sources.vae
    transformer = VidTwinDiT(
        structure_shape=vae.structure_shape,
        dynamics_shape=vae.dynamics_shape,
        dynamics_axes=vae.dynamics_axes,
        hidden_size=12,
        num_layers=1,
        num_attention_heads=2,
        num_classes=len(CLASS_NAMES),
        id2label={str(label): name for label, name in enumerate(CLASS_NAMES)},
        independent_times=True,
    )
    for parameter in (*transformer.parameters(), *vae.decoder.proj_out.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    pipe = VidTwinDiffusionPipeline(vae=vae, transformer=transformer, scheduler=make_scheduler("flow"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_given_latent_comes_out_as_it_was(sources, pipe):
    rows, videos = tabulate(pipe, sources, num_inference_steps=2, guidance_scale=1.0)
    assert set(rows) == {*GIVEN, "real structure", "real dynamics"}
    assert all(isinstance(row, Recombination) for row in rows.values())
    assert rows["S, D | c"].kept is None
    for name in ("D | S, c", "S | D, c"):
        assert rows[name].kept == pytest.approx(80.0) and rows[name].source < 40
        assert not torch.equal(videos[name], videos["S, D | c"])
    again = recombination.sample(pipe, sources, "structure", num_inference_steps=2, guidance_scale=1.0)
    assert torch.equal(again.structure, sources.latents[:COUNT].structure)


def test_the_command_prints_and_writes_the_table(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "pipeline")
    arguments = ["--pipeline", str(tmp_path / "pipeline"), "--count", "10", "--num-inference-steps", "1"]
    recombine.main([*arguments, "--output-dir", str(tmp_path), "--device", "cpu"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in GIVEN) and "as in the clip of the dynamics" in printed
    summary = json.loads((tmp_path / "recombination.json").read_text())
    assert summary["rows"]["D | S, c"]["kept"] == pytest.approx(80.0)
    assert np.asarray(Image.open(tmp_path / "sheet.png")).std() > 1
    with pytest.raises(ValueError, match="count must be at least 10, one of every class, got 9"):
        recombine.main([*arguments[:2], "--count", "9"])
