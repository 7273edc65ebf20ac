"""Random numbers that depend only on the run's seed, their purpose and the sample.

Every random choice of training (clip, crop, flip, noise, time, dropped condition) is drawn from a generator that is
seeded by the run's seed, the purpose and the position of the sample in the run, never from the global generator. So the
same sample gets the same noise whatever the number of processes, workers or restarts.
"""

import hashlib
from collections.abc import Iterable

import torch


def derive_seed(*keys: int | str) -> int:
    """Mix keys into one 63-bit seed that is the same on every machine.

    Args:
        keys: integers or strings; their order and type matter.

    Returns:
        An int in [0, 2^63).
    """
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generators(seed: int, stream: str, positions: Iterable[int]) -> list[torch.Generator]:
    """One CPU generator per sample, as `diffusers.utils.torch_utils.randn_tensor` takes them.

    Args:
        seed: the run's seed.
        stream: name of their purpose, for example "noise".
        positions: position of each sample in the run: optimiser step x global batch size + index in the global batch.
    """
    return [torch.Generator().manual_seed(derive_seed(seed, stream, int(position))) for position in positions]
