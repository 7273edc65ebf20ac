"""What every test starts from."""

import pytest
from diffusers.models.attention_dispatch import attention_backend


@pytest.fixture(autouse=True)
def default_attention_backend():
    """A model's choice of attention backend is kept for the whole process; no test is to see another's."""
    with attention_backend("native"):
        yield
