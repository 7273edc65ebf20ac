"""The comparison of samplers at a tiny size; nothing here depends on the clock."""

import json

import pytest
import torch
from torch import nn

from autoencoder.common.cost import count_flops
from benchmarks import contenders
from benchmarks import sampling as sampling_command
from benchmarks.contenders import PATCHES
from benchmarks.sampling import SamplingConfig
from benchmarks.turns import Contender, time_in_turns, warm_up_alone
from benchmarks.work.sampling import SamplingRow, ratio

CPU = torch.device("cpu")


def named_calls(*names: str) -> tuple[list[str], list[Contender]]:
    """Contenders that write their names down."""
    log = []
    return log, [Contender(name, nn.Identity(), lambda name=name: log.append(name), 0) for name in names]


def test_turns_change_their_order():
    log, entrants = named_calls("a", "b")
    seconds = time_in_turns(entrants, CPU, rounds=3)
    assert log == ["a", "b", "b", "a", "a", "b"]
    assert [len(times) for times in seconds] == [3, 3]
    assert all(second >= 0 for times in seconds for second in times)


def test_warming_up_runs_the_warm_up_if_there_is_one():
    log, (first, second) = named_calls("a", "b")
    short = Contender("c", nn.Identity(), second.call, 0, warm_up=lambda: log.append("short"))
    assert warm_up_alone([first, short], CPU) == [None, None]
    assert log == ["a", "short"]


def row(**changes) -> SamplingRow:
    values = {"comparison": "denoiser", "name": "ours", "flops": 10, "steps": 2, "seconds": 2.0}
    return SamplingRow(**values | {"peak_memory_bytes": None} | changes)


@pytest.mark.parametrize(
    "flops, seconds, reached", [(60, 10.0, True), (59, 10.0, False), (60, 9.9, False), (600, 9.9, False)]
)
def test_the_goal_needs_both(flops, seconds, reached):
    result = ratio(row(), row(name="Latte", flops=flops, seconds=seconds))
    assert (result.flops, result.seconds, result.reached) == (flops / 10, seconds / 2, reached)
    assert ("NOT reached" in str(result)) != reached
    assert result.memory is None and "not measured" in str(result)


def test_decoders_have_no_goal_and_memory_is_compared_where_it_was_measured():
    other = row(comparison="decoder", peak_memory_bytes=30)
    result = ratio(row(comparison="decoder", peak_memory_bytes=20), other)
    assert (result.reached, result.memory) == (None, 1.5)
    assert "goal" not in str(result)


def test_paper_scale_is_what_is_stated():
    scale = contenders.paper_scale()
    with torch.device("meta"):
        rows = [contenders.vidtwin_denoiser(scale, patches, torch.float32, torch.device("meta")) for patches in PATCHES]
        latte = contenders.latte_denoisers(scale, torch.float32, torch.device("meta"))
        (_, ours, ours_inputs), (_, theirs, theirs_inputs) = contenders.equal_models(scale, num_layers=2)
    names = [entrant.name for entrant in (*rows, *latte)]
    assert names == [
        "VidTwin DiT, patch 1x1x1 and 1x1, 1008 tokens",
        "VidTwin DiT, patch 2x1x1 and 1x1, 616 tokens",
        "VidTwin DiT, patch 2x2x2 and 2x2, 192 tokens",
        "Latte, 224 pixels, 3136 tokens",
        "Latte, 256 pixels, 4096 tokens",
    ]
    # Per token and block 2 FLOPs for 12 C^2 weights; 14 of 28 blocks have queries and an output for the caption, too.
    dim, tokens = 1152, 3136
    attention = 14 * 4 * dim * tokens * (14 * 14 + 16 + 1)
    assert latte[0].flops == pytest.approx(2 * tokens * dim**2 * (28 * 12 + 14 * 2) + attention, rel=0.01)
    assert len(latte[0].model.transformer_blocks) == len(latte[0].model.temporal_transformer_blocks) == 14
    assert rows[0].flops == pytest.approx(18 * (2 * 1008 * 12 * dim**2 + 4 * 1008**2 * dim), rel=0.01)

    assert ours_inputs[0].shape[1] == theirs_inputs[0].shape[2:].numel() == 1024  # tokens
    flops = [count_flops(model, *inputs) for model, inputs in ((ours, ours_inputs), (theirs, theirs_inputs))]
    assert flops[0] == pytest.approx(flops[1], rel=0.01)
    assert theirs.inner_dim == ours.config.hidden_size == dim


def test_the_image_decoder_decodes_every_frame():
    scale = contenders.quick_scale()
    entrant = contenders.image_decoder(scale, torch.float32, CPU)
    shapes = []
    entrant.model.decoder.register_forward_hook(lambda _, args, output: shapes.append(tuple(output.shape)))
    entrant.call()
    assert shapes == scale.num_frames * [(1, 3, 8 * scale.latent_size, 8 * scale.latent_size)]
    latent = torch.empty(1, 4, scale.latent_size, scale.latent_size)
    assert entrant.flops == scale.num_frames * count_flops(entrant.model.decode, latent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_step_changes_the_weights_of_both(dtype):
    for name, model, inputs in contenders.equal_models(contenders.quick_scale(), num_layers=1):
        before = [parameter.clone() for parameter in model.parameters()]
        contenders.training_step(name, model, inputs, dtype, CPU).call()
        assert any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)), name
        assert all(parameter.dtype == torch.float32 and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_command(dtype, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    output = tmp_path / "sampling.json"
    sampling_command.main(["--quick", "--steps", "3", "--rounds", "1", "--dtype", dtype, "--output", str(output)])
    printed = capsys.readouterr().out
    report = json.loads(output.read_text())
    assert (report["benchmark"], report["dtype"], report["quick"]) == ("sampling", dtype, True)
    rows = report["results"]
    denoisers = [row for row in rows if row["comparison"] == "denoiser" and "steps" in row]
    assert [row["steps"] for row in denoisers] == 5 * [3]
    ratios = [row for row in rows if "reached" in row]
    assert len(ratios) == 3 * 2 + 1  # each of ours over Latte at two sizes, and the decoders
    assert ratios[0]["flops"] == denoisers[3]["flops"] / denoisers[0]["flops"]
    assert [row["work"] for row in rows if row["comparison"] == "equal DiT"] == ["forward", "training step"]
    assert "patch 1x1x1 and 1x1" in printed and "NOT reached" in printed and "matrix products" in printed


def test_parts_can_be_left_out(tmp_path):
    output = tmp_path / "sampling.json"
    sampling_command.main(["--quick", "--parts", "decoder", "--output", str(output)])
    assert {row["comparison"] for row in json.loads(output.read_text())["results"]} == {"decoder"}


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("parts", "denoiser,encoder", "parts must be of denoiser, decoder, equal, got 'encoder'"),
        ("dtype", "fp16", "dtype must be of fp32, bf16, got 'fp16'"),
        ("steps", 0, "steps must be at least 1, got 0"),
        ("layers", 0, "layers must be at least 1, got 0"),
        ("rounds", 0, "rounds must be at least 1, got 0"),
    ],
)
def test_bad_flags_raise_one_clear_error(field, value, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**{field: value})
