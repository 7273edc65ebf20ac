"""Which arithmetic a run takes by itself, that it keeps it, and that Muon follows."""

from pathlib import Path

import pytest
import torch
import yaml
from test_autoencoder_train import arguments
from torch.utils._python_dispatch import TorchDispatchMode

from autoencoder import train as train_command
from autoencoder.common import precision
from autoencoder.common.config import OptimizerConfig
from autoencoder.common.precision import describe_precision, has_bf16_products, resolve_precision
from generator import latent_cache
from generator import train as generator_train


@pytest.fixture
def processor(monkeypatch):
    """A processor of one's choice: its name, what ATen uses of it, and its bf16 instructions."""

    def choose(machine: str = "x86_64", capability: str = "AVX512", avx512_bf16=False, amx=False, onednn_bf16=True):
        monkeypatch.setattr(precision.platform, "machine", lambda: machine)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn_bf16, raising=False)

    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    choose()
    return choose


@pytest.mark.parametrize(
    ("hardware", "expected"),
    [
        ({}, False),  # AVX-512 alone: oneDNN would emulate
        ({"avx512_bf16": True}, True),
        ({"amx": True}, True),
        ({"capability": "AVX2"}, False),
        ({"capability": "AVX2", "avx512_bf16": True}, False),  # ATEN_CPU_CAPABILITY=avx2
        ({"capability": "DEFAULT", "amx": True}, False),
        ({"machine": "aarch64", "capability": "DEFAULT"}, True),
        ({"machine": "aarch64", "capability": "SVE256", "onednn_bf16": False}, False),
        ({"machine": "AMD64", "avx512_bf16": True}, True),
    ],
)
def test_a_processor_must_have_the_instructions_and_be_allowed_to_use_them(processor, hardware, expected):
    processor(**hardware)
    assert has_bf16_products("cpu") is expected
    assert resolve_precision("auto", "cpu") == ("bf16" if expected else "fp32")


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("isa", "expected"),
    [("AVX2", False), ("avx512_core", False), ("AVX2_VNNI_2", False), ("AVX512_CORE_BF16", True), ("ALL", True)],
)
def test_onednn_can_be_forbidden_to_use_them(processor, monkeypatch, variable, isa, expected):
    processor(avx512_bf16=True)
    monkeypatch.setenv(variable, isa)
    assert has_bf16_products("cpu") is expected


def test_other_devices(processor, monkeypatch):
    processor(avx512_bf16=True)
    assert not has_bf16_products("meta") and not has_bf16_products("mps")
    for native in (False, True):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, native=native: native)
        assert has_bf16_products("cuda:0") is native
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_bf16_products("cpu")


def test_what_is_asked_for_is_not_changed(processor):
    for hardware in ({}, {"avx512_bf16": True}):
        processor(**hardware)
        assert [resolve_precision(name, "cpu") for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert describe_precision("bf16", "cpu") == "precision: bf16 (this CPU has bf16 products)"
    processor()
    assert describe_precision("fp32", "cpu") == "precision: fp32 (this CPU has no bf16 products)"
    assert "bf16 is slow here" in describe_precision("bf16", "cpu")


class Products(TorchDispatchMode):
    """Keeps the dtypes of matrix products."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "addmm" in str(func):
            self.dtypes.add(args[1].dtype)
        return func(*args, **(kwargs or {}))


def parse_autoencoder(folder: Path, *flags: str) -> str:
    config, _, run_folder, text = train_command.parse([f"--output-dir={folder}", "--accelerator=cpu", *flags])
    run_folder.path.mkdir(exist_ok=True)
    run_folder.config.write_text(text)
    return config.precision


def parse_generator(folder: Path, *flags: str) -> str:
    config, _, run_folder, text = generator_train.parse([f"--output-dir={folder}", *flags])
    run_folder.path.mkdir(exist_ok=True)
    run_folder.config.write_text(text)
    return config.precision


@pytest.mark.parametrize("parse", [parse_autoencoder, parse_generator])
def test_the_choice_is_written_down_and_kept(processor, tmp_path, monkeypatch, parse):
    """Also on a processor that would choose otherwise, and where a preset with `auto` is given again."""
    monkeypatch.setattr(latent_cache, "autoencoder_folder", lambda _: tmp_path / "autoencoder")
    preset = "tiny" if parse is parse_autoencoder else "shapes"
    for chosen, hardware in (("bf16", {"avx512_bf16": True}), ("fp32", {})):
        folder = tmp_path / chosen
        processor(**hardware)
        assert parse(folder) == chosen
        assert yaml.safe_load((folder / "config.yaml").read_text())["precision"] == chosen
        processor(**({} if hardware else {"avx512_bf16": True}))
        assert parse(folder, "--resume=true") == chosen
        assert parse(folder, "--resume=true", f"--config={preset}") == chosen
    assert parse(tmp_path / "mine", "--precision=fp32") == "fp32"


def test_it_is_printed(tmp_path, capsys):
    train_command.main(arguments(tmp_path / "run", precision="auto", max_steps=1, num_held_out=1))
    chosen = resolve_precision("auto", "cpu")
    assert f"precision: {chosen} (this CPU has " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "bf16_products", "dtype"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("bf16", True, torch.bfloat16),
        ("bf16", False, torch.float32),  # a run from elsewhere: fp32 is as good, and far faster here
        ("fp32", True, torch.float32),
    ],
)
def test_muon_orthogonalises_in_the_arithmetic_of_the_run(processor, run, bf16_products, dtype):
    processor(avx512_bf16=bf16_products)
    layer = torch.nn.Linear(16, 16, bias=False)
    optimizer, _ = OptimizerConfig("muon").build(layer, 1, run)
    layer.weight.grad = torch.randn(16, 16)
    with Products() as products:
        optimizer.step()
    assert products.dtypes == {dtype}
