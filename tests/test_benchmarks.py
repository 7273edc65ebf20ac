"""The benchmark commands at the tiny size, and what their numbers mean; nothing here depends on the clock."""

import json

import pytest
import torch
from torch import nn

import benchmarks.autoencoder
import benchmarks.generator
import benchmarks.work.autoencoder
import benchmarks.work.generator
from autoencoder.common.cost import count_flops
from autoencoder.transformer import FeedForward
from benchmarks.measure import LinearCall, measure_in_turns, recorded_linears, time_by_kind
from benchmarks.report import Result
from benchmarks.settings import BenchmarkConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "command, stage, batch_size",
    [
        (benchmarks.autoencoder, benchmarks.work.autoencoder.STAGE, 1),
        (benchmarks.generator, benchmarks.work.generator.STAGE, 2),
    ],
    ids=["autoencoder", "generator"],
)
def test_command_writes_what_it_measured(command, stage, batch_size, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    output = tmp_path / "report.json"
    command.main(["--sizes", "tiny", "--rounds", "1", "--batch-size", str(batch_size), "--output", str(output)])

    report = json.loads(output.read_text())
    assert report["benchmark"] == stage.name
    assert {"device", "cpu", "threads", "torch", "date"} < report.keys()
    rows = {(row["work"], row["dtype"]): row for row in report["results"]}
    assert set(rows) == {(work, dtype) for work in ("forward", "training step") for dtype in ("fp32", "bf16")}

    model = stage.models["tiny"]()
    flops = count_flops(model, *stage.inputs(model, batch_size))
    for (work, _), row in rows.items():
        assert row.keys() == Result.__dataclass_fields__.keys()
        assert (row["size"], row["batch_size"], row["rounds"]) == ("tiny", batch_size, 1)
        assert row["flops"] == (flops if work == "forward" else 3 * flops)
        assert 0 < row["linear_flops"] < flops
        assert row["flops_per_second"] == pytest.approx(row["flops"] / row["seconds"])
        # With one round the medians are that round's, so the ratio is the quotient of the two rates.
        assert row["ratio"] == pytest.approx(row["flops_per_second"] / row["linear_flops_per_second"])
        assert row["peak_memory_bytes"] is None
        assert (row["time_by_kind"] is not None) == (work == "forward")
    printed = capsys.readouterr().out
    assert "not measured" in printed and "matrix products" in printed


def test_training_can_be_left_out(tmp_path):
    output = tmp_path / "report.json"
    arguments = ["--sizes", "tiny", "--rounds", "1", "--dtype", "fp32", "--batch-size", "1", "--output", str(output)]
    benchmarks.generator.main([*arguments, "--skip-training"])
    assert [row["work"] for row in json.loads(output.read_text())["results"]] == ["forward"]


def test_a_training_step_changes_the_weights():
    stage = benchmarks.work.autoencoder.STAGE
    work = benchmarks.suite.training_step(stage, "tiny", 1, "fp32", CPU)
    last_weight = work.model.decoder.proj_out.weight
    assert not last_weight.any()  # as initialised
    work.call()
    assert last_weight.all()


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.shared(self.shared(x)))


def test_linear_layers_are_recorded_with_their_rows_and_as_often_as_they_run():
    model = Twice()
    with recorded_linears(model) as calls:
        model(torch.zeros(2, 3, 4))
    model(torch.zeros(1, 4))
    assert calls == [LinearCall(6, 4, 4, True)] * 2 + [LinearCall(6, 4, 2, False)]
    assert sum(call.flops for call in calls) == count_flops(model, torch.zeros(2, 3, 4)) == 2 * 6 * (16 + 16 + 8)


def test_the_work_runs_once_per_round_after_a_warm_up():
    model, times = Twice(), []

    def work() -> None:
        times.append(model(torch.zeros(2, 4)))

    measurement = measure_in_turns(work, model, 160, torch.float32, CPU, rounds=3)
    assert len(times) == 4
    assert (measurement.rounds, measurement.flops, measurement.linear_flops) == (3, 160, 160)


def test_time_is_assigned_to_the_kind_that_caused_it():
    x = torch.randn(1, 4, 64, 16)
    transposed = x.transpose(1, 2)
    linear, convolution = nn.Linear(16, 16), nn.Conv2d(4, 4, 3)
    cases = {
        "matrix products": lambda: linear(x),  # spreads its bias by a copy of its own
        "convolutions": lambda: convolution(x),
        "attention": lambda: nn.functional.scaled_dot_product_attention(x, x, x),
        "copies": lambda: transposed.contiguous(),
        "norms and elementwise": lambda: nn.functional.gelu(nn.functional.layer_norm(x, (16,))),
    }
    for kind, work in cases.items():
        with torch.no_grad():
            shares = time_by_kind(work, CPU)
        assert set(shares) == set(cases)
        assert sum(shares.values()) == pytest.approx(1)
        assert shares[kind] == pytest.approx(1), kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_feed_forward_gives_the_same_bits_with_and_without_gradients(dtype):
    feed_forward, x = FeedForward(8, 32).to(dtype), torch.randn(2, 5, 8, dtype=dtype)
    original = x.clone()
    expected = feed_forward(x)
    with torch.no_grad():
        assert torch.equal(feed_forward(x), expected)
    with torch.inference_mode():
        assert torch.equal(feed_forward(x), expected)
    assert torch.equal(x, original)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("sizes", "tiny,huge", "sizes must be of tiny, paper, got 'huge'"),
        ("dtype", "fp16", "dtype must be of fp32, bf16, got 'fp16'"),
        ("batch_size", "1,0", "batch_size must be positive integers, separated by commas, got '1,0'"),
        ("rounds", 0, "rounds must be at least 1, got 0"),
    ],
)
def test_bad_flags_raise_one_clear_error(field, value, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkConfig(**{field: value})
