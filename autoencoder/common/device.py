"""Devices by name, and copies to them."""

import torch

from autoencoder.common.errors import UserError


def resolve_device(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one.

    Raises:
        UserError: if there is no such device; the message lists those there are.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    kinds = {"cpu": 1} | ({accelerator.type: torch.accelerator.device_count()} if accelerator else {})
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name!r} is no device; {_known(kinds)}") from error
    if (device.index or 0) >= kinds.get(device.type, 0):
        raise UserError(f"device={name!r} is not on this machine; {_known(kinds)}")
    return device


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device; to a GPU through pinned memory, so that the host does not wait for the copy.

    Args:
        tensor: on any device.
        device: the target; a tensor that is there already is returned as it is.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _known(kinds: dict[str, int]) -> str:
    names = (f"{kind}:{index}" if kind != "cpu" else kind for kind, count in kinds.items() for index in range(count))
    return f"these are: {', '.join(names)}, or auto for the first CUDA device, else the CPU"
