"""The command for whoever has a GPU: on the CPU, on fake CUDA, and where parts fail."""

import json
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from fakecuda import FakeCuda

from autoencoder.common.config import OptimizerConfig
from benchmarks import gpu as gpu_command
from benchmarks.work import gpu
from benchmarks.work.gpu import Bench, GpuConfig, Row
from benchmarks.work.memory import Memory
from pipelines.stages import read_presets

QUICK = ["--quick", "true", "--tests", "false", "--device", "cpu"]


def test_without_a_gpu_it_ends_with_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA GPU here, so nothing was measured; --quick"):
        gpu_command.main(["--device", "auto"])


@pytest.fixture
def counted(monkeypatch):
    """The counts of `benchmarks.memory`, which has tests of its own."""
    row = Memory(
        **{field.name: 1 for field in fields(Memory)} | {"stage": "autoencoder", "preset": "tiny", "precision": "bf16"}
    )
    monkeypatch.setattr(gpu, "count_presets", lambda *args, **changes: row)


def test_quick_on_the_cpu(tmp_path, capsys, counted):
    gpu_command.main([*QUICK, "--output-dir", str(tmp_path)])
    report = json.loads((tmp_path / "gpu_cpu.json").read_text())
    rows = report["results"]
    assert report["device"] == "CPU" and report["date"] and report["diffusers"] and report["flash-attn"]
    assert [row["error"] for row in rows] == [None] * 6
    assert all(row["seconds"] > 0 and row["flops"] > 0 and row["mfu"] is None for row in rows)
    assert [row["counted_memory_bytes"] is not None for row in rows] == [True, True, False, False, False, True]
    printed = capsys.readouterr().out
    assert gpu.table([Row(**row) for row in rows]) in printed and "6 of 6 parts ran" in printed
    assert gpu.table([Row(**row) for row in rows]) in (tmp_path / "gpu_cpu.md").read_text()


def one_layer(stage: str, preset: str):
    """A preset made smaller, with a GAN and an optimiser of few operations: fake tensors take their time."""
    config, settings = read_presets(stage, preset)
    changes = {"gan": True, "gan_start": 1} if stage == "autoencoder" else {}
    return replace(config, optimizer=OptimizerConfig(), **changes), settings | {"num_layers": 1}


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_every_part_runs_on_fake_cuda(monkeypatch, counted):
    """All but compilation, which needs kernels."""
    monkeypatch.setattr(gpu, "count_flops", lambda *args: 1)
    monkeypatch.setattr(gpu, "read_presets", one_layer)
    monkeypatch.setattr(Bench, "_compile", lambda self, model, mode: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    bench = Bench(GpuConfig(quick=True, tests=False), torch.device("cuda", 0))
    assert bench.peak == 989e12
    bench.warm_ups, bench.steps = 0, 1
    parts = list(bench.parts())
    assert [mode for _, mode, _ in parts] == ["eager"] * 5 + ["compiled"] * 5 + ["eager"]
    for name, mode, work in parts[1:5] + parts[-1:]:  # the last one does what the first one does
        with FakeCuda():
            row = work(mode)
        assert row.seconds > 0 and row.peak_memory_bytes == 0 and row.mfu > 0, name


def test_a_part_that_fails_is_recorded_and_the_next_one_runs(monkeypatch, capsys):
    def fail(self, mode):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    def hang(self, mode):
        while True:
            time.sleep(0.01)

    monkeypatch.setattr(Bench, "autoencoder_step", fail)
    monkeypatch.setattr(Bench, "denoiser_step", hang)
    config = GpuConfig(quick=True, tests=False, part_seconds=0.2)
    monkeypatch.setattr(Bench, "encoding", lambda self, mode: Row(part="", seconds=1.0, flops=10))
    for name in ("decoding", "sampling", "adversarial_step"):
        monkeypatch.setattr(Bench, name, Bench.encoding)
    rows = gpu.run(config, torch.device("cpu"))
    assert rows[0].error == "OutOfMemoryError: CUDA out of memory. Tried to allocate" and rows[0].seconds is None
    assert rows[1].error == "TimeoutError: took more than 0 s"
    assert [row.error for row in rows[2:]] == [None] * 4
    assert "stopped: OutOfMemoryError" in capsys.readouterr().out


def test_the_time_limit_is_named_also_where_the_compiler_meets_it():
    def stuck(gm, example_inputs):
        time.sleep(60)

    work = torch.compile(torch.sin, backend=stuck)
    row = gpu.run_part("a part", "compiled", lambda mode: work(torch.ones(2)), 0.5)
    assert row.error == "TimeoutError: took more than 0 s" and row.mode == "compiled"


def test_parts_are_left_out_when_the_time_is_over():
    rows = gpu.run(GpuConfig(quick=True, tests=False, minutes=1e-9), torch.device("cpu"))
    assert {row.error for row in rows} == {"left out: the 1e-09 minutes were over"}


def test_the_tests_that_need_a_gpu_are_run_by_their_mark(monkeypatch):
    seen = []

    class Done:
        returncode, stdout, stderr = 1, "FAILED tests/test_gpu.py::test_x - boom\n1 failed, 2 passed in 3 s", ""

    monkeypatch.setattr(gpu.subprocess, "run", lambda command, **kwargs: seen.append(command) or Done)
    row = gpu.run_tests()
    assert row.error == "FAILED tests/test_gpu.py::test_x - boom" and row.note == "1 failed, 2 passed in 3 s"
    assert seen[0][1:6] == ["-m", "pytest", "-q", "-m", "gpu"] and (Path(seen[0][6]) / "test_gpu.py").is_file()


@pytest.mark.parametrize(
    "card, peak",
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peaks_of_cards(card, peak):
    assert gpu.known_peak(card) == peak


@pytest.mark.parametrize("settings", [{"minutes": 0}, {"part_seconds": -1}])
def test_times_must_be_positive(settings):
    with pytest.raises(ValueError, match="must be positive"):
        GpuConfig(**settings)
