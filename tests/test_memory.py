"""Memory of the presets, counted: against real tensors, against autograd's own checkpointing, and the table."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_vae
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from benchmarks import memory as memory_command
from benchmarks.saved_memory import count_saved, count_saved_in_blocks
from benchmarks.work import memory

GB = 10**9


class Block(nn.Module):
    """Keeps its input, and once more as many numbers as `width` times it."""

    def __init__(self, width: int):
        super().__init__()
        self.grow, self.shrink = nn.Linear(4, 4 * width, bias=False), nn.Linear(4 * width, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shrink(self.grow(x).relu())


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for width in (2, 5, 3))
        self.call = lambda block, *args: block(*args)

    def enable_gradient_checkpointing(self, function):
        self.call = function

    def disable_gradient_checkpointing(self):
        self.call = lambda block, *args: block(*args)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = self.call(block, x)
        return x.exp()  # keeps its result


def test_blocks_that_are_computed_again_keep_their_inputs_and_the_largest_of_them():
    model, x = Blocks(), torch.randn(8, 4, requires_grad=True)
    unit = 4 * 8 * 4  # bytes of a block's input
    whole, again = count_saved_in_blocks(lambda: model(x), model)
    assert whole == (3 + 2 + 5 + 3 + 1) * unit == count_saved(lambda: model(x), model)
    assert again == (3 + 5 + 1) * unit


def test_the_tiny_autoencoder_keeps_with_checkpointing_what_torchs_own_keeps():
    """Outside of the blocks: torch's checkpointing shows hooks nothing of what is inside, nor the inputs of blocks."""
    model, video = tiny_vae().train(), torch.randn(2, 3, 4, 16, 16)
    inputs = {}

    def noted(block, *args):
        for x in args:
            if isinstance(x, torch.Tensor):
                inputs[x.untyped_storage()._cdata] = x
        return checkpoint(block, *args, use_reentrant=False)

    known = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    outside = {}

    def pack(tensor):
        outside[tensor.untyped_storage()._cdata] = tensor
        return tensor

    model.enable_gradient_checkpointing(noted)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(video)
    model.disable_gradient_checkpointing()
    kept = {key: tensor for key, tensor in (outside | inputs).items() if key not in known}
    kept = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    whole, again = count_saved_in_blocks(lambda: model(video), model)
    assert kept < again < whole and output is not None
    assert whole == count_saved(lambda: model(video), model)


@pytest.mark.parametrize("stage, presets", [("autoencoder", ("tiny",)), ("generator", ("shapes",))])
def test_the_row_of_a_preset(stage, presets, monkeypatch):
    counts = {}

    def spy(*args):
        counts[len(counts) + 1] = count_saved_in_blocks(*args)
        return counts[len(counts)]

    monkeypatch.setattr(memory, "count_saved_in_blocks", spy)
    row = memory.count_presets(stage, *presets)
    (two, two_again), (three, three_again) = counts[1], counts[2]
    assert row.saved == two + (row.micro_batch - 2) * (three - two)
    assert row.saved_with_checkpointing == two_again + (row.micro_batch - 2) * (three_again - two_again) < row.saved
    assert row.total == row.states + (row.saved_with_checkpointing if row.checkpointing else row.saved)
    assert row.states > 3 * 4 * row.parameters and row.fits
    most = row.largest_micro_batch
    assert row.states + two + (most - 2) * (three - two) <= memory.LIMIT
    assert row.states + two + (most - 1) * (three - two) > memory.LIMIT
    text = memory.table([row])
    assert f"| {stage} {presets[0]} |" in text and f"{row.parameters / 1e6:.1f} M" in text


def test_counts_grow_evenly_with_the_batch():
    with memory.fake_gpu("bf16"):
        model = tiny_vae(num_frames=8, sample_size=32)
        count = partial(count_saved_in_blocks, model=model)
        two, three, six = (count(lambda n=n: model(torch.empty(n, *model.video_shape))) for n in (2, 3, 6))
    for place in range(2):
        assert six[place] == two[place] + 4 * (three[place] - two[place]) > three[place] > 0


@pytest.mark.parametrize("precision, bytes_of_a_number", [("fp32", 4), ("bf16", 2)])
def test_attention_on_the_fake_gpu_keeps_no_weights_and_autocast_works(precision, bytes_of_a_number):
    with memory.fake_gpu(precision):
        linear = nn.Linear(8, 8, bias=False)
        x = torch.empty(2, 3, 64, 8, requires_grad=True)
        out = linear(x)
        assert out.dtype is (torch.bfloat16 if precision == "bf16" else torch.float32) and out.device.type == "cuda"
        saved = count_saved(lambda: nn.functional.scaled_dot_product_attention(out, out, out), linear)
    row = 2 * 3 * 64
    assert 2 * row * 8 * bytes_of_a_number <= saved <= 2 * row * 8 * bytes_of_a_number + row * 4 + 64
    assert not torch.is_autocast_enabled("cuda")


def test_muon_keeps_one_average_of_a_matrix_and_two_of_the_rest():
    module = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5))
    config = memory.OptimizerConfig(name="muon")
    assert memory.optimizer_states(config, module) == 4 * (15 + 2 * (5 + 10))
    assert memory.optimizer_states(memory.OptimizerConfig(name="adamw"), module) == 4 * 2 * (15 + 5 + 10)


def test_every_preset_has_a_row():
    from autoencoder.common.commands import preset_path

    for stage, rows in (("autoencoder", memory.AUTOENCODERS), ("generator", memory.GENERATORS)):
        files = {path.stem for path in preset_path(stage, rows[0][0]).parent.glob("*.yaml")}
        assert {name for presets in rows for name in presets} == files - {*memory.NOT_COUNTED}


def test_the_table_in_the_repository_is_that_of_the_presets_and_all_of_them_fit():
    """Counted anew by `python -m benchmarks.memory --output-dir benchmarks/results`, which takes two minutes."""
    results = Path(memory_command.__file__).parent / "results"
    rows = [memory.Memory(**row) for row in json.loads((results / "memory.json").read_text())["results"]]
    assert memory.table(rows) == (results / "memory.md").read_text().rstrip("\n")
    names = [(stage, presets) for stage, of in memory.STAGE_ROWS for presets in of]
    assert [(row.stage, row.preset) for row in rows] == [(stage, " + ".join(presets)) for stage, presets in names]
    for row, (stage, presets) in zip(rows, names, strict=True):
        config, _ = memory.read_presets(stage, *presets)
        assert (row.micro_batch, row.checkpointing) == (max(config.micro_batches(1)), config.gradient_checkpointing)
        assert row.fits and row.total <= memory.LIMIT, row.preset


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "STAGE_ROWS", (("autoencoder", [("tiny",)]),))
    memory_command.main(["--output-dir", str(tmp_path)])
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "memory.json").read_text())
    assert [row["preset"] for row in report["results"]] == ["tiny"] and report["limit_bytes"] == 72 * GB
    assert (tmp_path / "memory.md").read_text() in printed and "Not counted: temporary tensors" in printed
