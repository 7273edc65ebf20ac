"""Checkpoints of the reference: read strictly, and refused with a reason."""

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoencoder import AutoencoderVidTwin
from autoencoder.transformer import sincos_embedding, spatial_embedding

REFERENCE = Path(__file__).parent / "data" / "reference"
WEIGHTS = REFERENCE / "one_block.weights.safetensors"
HEADS = {"num_attention_heads": 4}


def written(state: dict, folder: Path) -> Path:
    torch.save({"state_dict": state}, folder / "in.ckpt")
    return folder / "in.ckpt"


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return load_file(WEIGHTS)


def test_both_formats_load_equal(state, tmp_path):
    expected = AutoencoderVidTwin.from_original(WEIGHTS, **HEADS)
    config = json.loads((REFERENCE / "one_block.json").read_text())["config"]
    assert {name: expected.config[name] for name in config} == config, "the sizes are read from the tensors"
    assert not expected.training
    whole = state | {"loss.discriminator.main.0.weight": torch.zeros(3), "loss.logvar": torch.zeros(())}
    assert_same(AutoencoderVidTwin.from_original(written(whole, tmp_path), **HEADS), expected)
    torch.save(state, tmp_path / "bare.ckpt")
    assert_same(AutoencoderVidTwin.from_original(str(tmp_path / "bare.ckpt"), **HEADS), expected)


def test_weights_that_the_reference_never_reads_may_be_absent(state, tmp_path):
    unread = [key for key in state if key.startswith(("encoder.final_layer.", "decoder.x_embedder."))]
    assert unread
    for key in unread:
        del state[key]
    loaded = AutoencoderVidTwin.from_original(written(state, tmp_path), **HEADS)
    assert_same(loaded, AutoencoderVidTwin.from_original(WEIGHTS, **HEADS))


def test_full_size(tmp_path, monkeypatch):
    """All keys of the released checkpoint; expanded zeros, so that the file is small."""
    shapes = json.loads((REFERENCE / "vidtwin_checkpoint_keys.json").read_text())
    positions = {"pos_embed": spatial_embedding(768, 14), "pos_embed_temporal": sincos_embedding(768, torch.arange(16))}
    full = {
        key: positions[key.split(".")[-1]][None]
        if key.split(".")[-1] in positions
        else torch.full((), 0.5).expand(shape)
        for key, shape in shapes.items()
    }
    path = written(full, tmp_path)
    for name in ("xavier_uniform_", "kaiming_uniform_", "uniform_", "normal_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)  # it would take long
    model = AutoencoderVidTwin.from_original(path)
    assert sum(parameter.numel() for parameter in model.parameters()) == 311_518_770
    assert all((parameter == 0.5).all() for parameter in model.parameters())
    assert model.config.num_attention_heads == 12 and model.structure_shape == (8, 16, 7, 7)


@pytest.mark.parametrize(
    "key, change, message",
    [
        ("encoder.blocks.0.attn.qkv.bias", None, r"missing encoder\.blocks\.0\.attn\.qkv\.bias; left over nothing"),
        ("encoder.pos_embed_temporal", None, r"missing encoder\.pos_embed_temporal"),
        ("cont_emb.2.weight", None, r"cont_emb\.2\.weight is missing"),
        ("conv_in.extra", torch.zeros(1), r"missing nothing; left over conv_in\.extra"),
        ("conv_out.weight", torch.zeros(16, 16, 1, 1), r"conv_out\.weight has shape \(16, 16, 1, 1\), expected \(16,"),
        ("conv_in.weight", torch.zeros(16, 16), r"conv_in\.weight has shape \(16, 16\), expected a tensor of 4"),
    ],
)
def test_what_does_not_fit_is_named(state, tmp_path, key, change, message):
    if change is None:
        del state[key]
    else:
        state[key] = change
    with pytest.raises(ValueError, match=message):
        AutoencoderVidTwin.from_original(written(state, tmp_path), **HEADS)


@pytest.mark.parametrize("key", ["encoder.pos_embed", "decoder.pos_embed_temporal"])
def test_other_positions_are_refused(state, tmp_path, key):
    state[key][0, 1, 2] += 0.01
    with pytest.raises(ValueError, match=rf"{re.escape(key)} differs from the fixed sin-cos positions by up to 0\.01"):
        AutoencoderVidTwin.from_original(written(state, tmp_path), **HEADS)


def test_heads_of_an_unknown_width_must_be_given():
    with pytest.raises(ValueError, match=r"none is known at width 32[\s\S]*num_attention_heads="):
        AutoencoderVidTwin.from_original(WEIGHTS)


def test_foreign_objects_are_named_and_the_printed_line_converts(state, tmp_path):
    torch.save({"state_dict": state, "config": argparse.Namespace(lr=1e-3)}, tmp_path / "in.ckpt")
    with pytest.raises(ValueError, match=r"argparse\.Namespace") as caught:
        AutoencoderVidTwin.from_original(tmp_path / "in.ckpt", **HEADS)
    line = re.search(r'python (-c ".*?")', str(caught.value))[1]
    subprocess.run([sys.executable, *shlex.split(line)], cwd=tmp_path, check=True)
    converted = AutoencoderVidTwin.from_original(tmp_path / "out.safetensors", **HEADS)
    assert_same(converted, AutoencoderVidTwin.from_original(WEIGHTS, **HEADS))


def test_what_is_no_checkpoint(state, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        AutoencoderVidTwin.from_original(tmp_path / "none.ckpt")
    for name in ("text.ckpt", "text.safetensors", "empty.ckpt"):
        (tmp_path / name).write_text("" if name.startswith("empty") else "These are no weights. " * 20)
        with pytest.raises(ValueError, match=rf"{name} "):
            AutoencoderVidTwin.from_original(tmp_path / name)
    torch.save({"state_dict": [1, 2]}, tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match=r"list\.ckpt holds no state dict"):
        AutoencoderVidTwin.from_original(tmp_path / "list.ckpt")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no VidTwin reference checkpoint"):
        AutoencoderVidTwin.from_original(tmp_path / "other.safetensors")
