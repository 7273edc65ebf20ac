"""Files of weights that `torch.save` wrote, given by their path: read as tensors and nothing else, or refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from autoencoder.common.checkpoints import BROKEN
from autoencoder.common.errors import UserError, first_few


def read_tensors(file: Path | BinaryIO) -> dict[str, torch.Tensor]:
    """The state dict in a file.

    Raises:
        UserError: if it holds something else; the message is the end of one that names the file.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except BROKEN as error:  # which one depends on what the first bytes of such a file happen to mean to torch
        raise UserError("it is no file of tensors as torch.save writes them") from error
    if not isinstance(state, Mapping):
        raise UserError(f"it holds an object of type {type(state).__name__}, not tensors by their names")
    if others := [str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise UserError(f"what it has under {first_few(others)} is no tensor, as a state dict has under every name")
    return {str(name): tensor for name, tensor in state.items()}


def assign(network: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Make tensors the weights of a network, which may be on the device "meta".

    Raises:
        UserError: if they are not those of the network; the message is the end of one that names the file.
    """
    wanted = network.state_dict()
    problems = {
        "missing": wanted.keys() - state.keys(),
        "left over": state.keys() - wanted.keys(),
        "of another shape": {name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape},
    }
    if found := [f"{problem}: {first_few(sorted(names))}" for problem, names in problems.items() if names]:
        raise UserError(f"its tensors are not those of the network; {'; '.join(found)}")
    network.load_state_dict(state, assign=True)
