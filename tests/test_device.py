"""The name of a device."""

import pytest
import torch

from autoencoder.common.device import resolve_device


def test_auto_takes_cuda_where_there_is_one(monkeypatch):
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert resolve_device("auto") == torch.device(kind)


@pytest.mark.parametrize("count", [0, 2])
def test_a_device_must_be_there(monkeypatch, count):
    accelerator = torch.device("cuda") if count else None
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: accelerator)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    assert resolve_device("cpu") == torch.device("cpu")
    known = ", ".join(["cpu", *(f"cuda:{index}" for index in range(count))])
    for name in ("cuda:2", "meta", "mps"):
        with pytest.raises(ValueError, match=f"device='{name}' is not on this machine; these are: {known}, or auto"):
            resolve_device(name)
    for name in ("gpu", "cuda:x", ""):
        with pytest.raises(ValueError, match=f"device='{name}' is no device; these are: {known}, or auto"):
            resolve_device(name)
    if count:
        assert resolve_device("cuda:1") == torch.device("cuda", 1) and resolve_device("cuda").type == "cuda"
