"""Deciding whether the blocks of a model are compiled."""

import importlib.util
import os
import shutil
from typing import Literal

import torch

COMPILERS = ("c++", "g++", "clang++", "cl")


def should_compile(setting: bool | Literal["auto"], device: torch.device) -> tuple[bool, str]:
    """Resolve a config's `compile` for a device.

    Args:
        setting: the config's value; "auto" compiles on CUDA if Triton and a C++ compiler are installed.
        device: the run's device.

    Returns:
        Whether to compile, and one line for the log that says so and why.
    """
    if setting != "auto":
        return setting, f"compile: {'on' if setting else 'off'}"
    if device.type != "cuda":
        return False, f"compile: off (on a {device.type.upper()}, --compile true turns it on)"
    if importlib.util.find_spec("triton") is None:
        return False, "compile: off (Triton is not installed, which comes with PyTorch for CUDA on Linux)"
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), *COMPILERS) if name):
        return False, "compile: off (there is no C++ compiler, such as g++; with one, steps are faster)"
    return True, "compile: on (the first steps take longer)"
