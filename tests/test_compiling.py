"""Whether blocks are compiled where a config leaves that open."""

import importlib.util
import shutil

import pytest
import torch

from autoencoder.common.compiling import should_compile
from autoencoder.common.precision import set_tf32

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def tools(monkeypatch):
    """A machine with chosen tools."""

    def choose(*found: str) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in found else None)
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in found else None)

    monkeypatch.delenv("CXX", raising=False)
    return choose


def test_auto_compiles_on_cuda_with_a_compiler(tools, monkeypatch):
    tools("triton", "g++")
    assert should_compile("auto", CUDA) == (True, "compile: on (the first steps take longer)")
    assert should_compile("auto", CPU) == (False, "compile: off (on a CPU, --compile true turns it on)")
    tools("triton")
    assert should_compile("auto", CUDA)[0] is False and "no C++ compiler" in should_compile("auto", CUDA)[1]
    tools("triton", "mycc")
    monkeypatch.setenv("CXX", "mycc")
    assert should_compile("auto", CUDA)[0] is True
    tools("g++")
    assert should_compile("auto", CUDA)[0] is False and "Triton" in should_compile("auto", CUDA)[1]


@pytest.mark.parametrize("device", [CUDA, CPU])
@pytest.mark.parametrize("setting", [True, False])
def test_what_is_asked_for_is_done(tools, setting, device):
    tools()
    assert should_compile(setting, device) == (setting, f"compile: {'on' if setting else 'off'}")


def test_tf32_is_for_products_and_convolutions():
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        for allowed in (True, False):
            set_tf32(allowed)
            assert [setting.fp32_precision == "tf32" for setting in settings] == [allowed, allowed]
            # Lightning reads this one before a training on a GPU; torch raises where it contradicts the newer ones.
            assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is allowed
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
