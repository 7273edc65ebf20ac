"""How a run's model computes: attention kernel, checkpointing, TF32, and whether its blocks are compiled."""

import importlib.util
import os
import shutil
from typing import Literal

import torch
from diffusers import ModelMixin

from autoencoder.common.config import RunConfig
from autoencoder.common.launchers import is_first_process
from autoencoder.common.precision import set_tf32

COMPILERS = ("c++", "g++", "clang++", "cl")


def set_up_model(model: ModelMixin, config: RunConfig, device: torch.device) -> None:
    """Make a model compute as a config says; the first process prints whether its blocks are compiled.

    Args:
        model: that trains.
        config: the run's config.
        device: the run's device.
    """
    if config.attention_backend:
        model.set_attention_backend(config.attention_backend)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if device.type == "cuda":
        set_tf32(config.tf32)
    compiles, remark = should_compile(config.compile, device)
    if is_first_process():
        print(remark)
    if compiles:
        model.compile_repeated_blocks()


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
