"""What a run says of itself."""

import pytest
import torch
from torch import nn

from autoencoder.common import summary as module
from autoencoder.common.summary import ExpectedEnd, format_duration, step_memory, summary


def test_a_summary_is_aligned():
    assert summary({"run": "outputs/run-001", "device": "cpu"}) == "run     outputs/run-001\ndevice  cpu"


@pytest.mark.parametrize(
    "seconds, text",
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12_000, "3 h 20 min"), (900_000, "250 h 0 min")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_the_expected_end_is_told_once_and_leaves_the_first_steps_out(monkeypatch):
    clock = iter([1000.0, 2000.0, *(3000.0 + 2.0 * step for step in range(20))])  # two slow steps, then 2 s each
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    end = ExpectedEnd(max_steps=1000)
    told = {step: line for step in range(101, 121) if (line := end.after_step(step))}
    (step, line) = told.popitem()
    assert not told and step == 108  # ten seconds after step 103
    assert "about 30 min to go" in line and "2.0 seconds per step" in line  # 892 steps of 2 s


def test_a_run_that_is_over_soon_tells_nothing():
    end = ExpectedEnd(max_steps=5)
    assert [end.after_step(step) for step in range(1, 6)] == [None] * 5


def test_memory_counts_what_is_held_between_steps():
    model = nn.Linear(100, 10, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 100)).sum().backward()
    optimizer.step()
    held = "weights 4000 B, gradients 4000 B, optimiser 8004 B, averages 8000 B"  # AdamW counts its steps in 4 bytes
    assert step_memory([model], [optimizer], averages=2) == f"{held}; peak of the step not measured on cpu"
