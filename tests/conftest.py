"""What every test starts from."""

import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend


@pytest.fixture(autouse=True)
def default_attention_backend():
    """A model's choice of attention backend is kept for the whole process; no test is to see another's."""
    with attention_backend("native"):
        yield


@pytest.fixture
def one_thread():
    """As many threads as each process of a test has under torchrun: the last bits depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
