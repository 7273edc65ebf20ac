"""Moving averages of the transformer's weights, and models with them, whole or sharded."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from accelerate import init_empty_weights
from diffusers.training_utils import EMAModel
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from generator.dit import VidTwinDiT
from generator.lora import same_form


def make_average(model: VidTwinDiT, decay: float) -> EMAModel:
    """A moving average of the parameters, updated by foreach kernels; its decay starts lower and grows to `decay`."""
    return EMAModel(model.parameters(), decay=decay, foreach=True)


@contextmanager
def averaged_weights(model: VidTwinDiT, average: EMAModel) -> Iterator[None]:
    """Inside the block the model has a moving average as its weights; all processes must call it.

    The model's own weights are kept on their device meanwhile.
    """
    own = [parameter.detach().clone() for parameter in model.parameters()]
    _copy(average.shadow_params, model.parameters())
    try:
        yield
    finally:
        for module in model.modules():
            if isinstance(module, FSDPModule):  # it keeps what it gathered for a forward until a backward
                module.reshard()
        _copy(own, model.parameters())


def whole_average(model: VidTwinDiT, average: EMAModel, keep: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a moving average by parameter name, on their device.

    Args:
        model: whose average it is.
        average: moving average of its parameters.
        keep: whether this process gets them; the other processes must iterate, too, and get nothing.
    """
    for (name, _), shadow in zip(model.named_parameters(), average.shadow_params, strict=True):
        whole = shadow.full_tensor() if isinstance(shadow, DTensor) else shadow
        if keep:
            yield name, whole


def averaged_model(model: VidTwinDiT, average: EMAModel, keep: bool) -> VidTwinDiT | None:
    """A new, whole model with a moving average as its weights, on their device; None where `keep` is false.

    Args:
        model, average, keep: as in `whole_average`.
    """
    weights = {name: weight.clone() for name, weight in whole_average(model, average, keep)}
    if not keep:
        return None
    if hasattr(model, "peft_config"):
        copy = same_form(model)
    else:
        with init_empty_weights():  # buffers are made
            copy = VidTwinDiT.from_config(model.config)
    copy.load_state_dict(weights, assign=True)
    return copy.to(model.device)


@torch.no_grad()
def _copy(sources: Iterable[torch.Tensor], targets: Iterable[torch.Tensor]) -> None:
    """Copy all tensors in one operation; of sharded ones each process copies its share."""
    torch._foreach_copy_([_own_share(target) for target in targets], [_own_share(source) for source in sources])


def _own_share(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
