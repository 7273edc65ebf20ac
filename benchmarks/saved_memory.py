"""Memory of a training step, counted without running it: for machines whose allocator cannot be asked."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks


@dataclass(frozen=True)
class CountedMemory:
    """Bytes that a training step with Adam holds when its backward pass begins.

    Attributes:
        parameters: of the model. Gradients take the same again, and Adam's two averages twice the same.
        activations: what autograd keeps for the backward pass.
    """

    parameters: int
    activations: int

    @property
    def states(self) -> int:
        """Parameters, gradients and Adam's two averages."""
        return 4 * self.parameters

    @property
    def total(self) -> int:
        """States and activations, but neither temporary tensors nor the work space of kernels."""
        return self.states + self.activations


def count_memory(build_model: Callable[[], nn.Module], loss: Callable[[nn.Module], torch.Tensor]) -> CountedMemory:
    """Count the memory of a training step; nothing is allocated and nothing computed.

    Both arguments run under `FakeTensorMode`, where tensors have a shape, a storage and a kernel, but no contents.

    Args:
        build_model: builds the model on the CPU.
        loss: (model) -> scalar; makes its own inputs.
    """
    with FakeTensorMode():
        model = build_model()
        parameters = sum(parameter.nbytes for parameter in model.parameters())
        return CountedMemory(parameters, count_saved(lambda: loss(model), model))


def count_saved(work: Callable[[], object], model: nn.Module) -> int:
    """Bytes that autograd keeps for the backward pass of `work`.

    Several saved tensors often share a storage, as queries, keys and values do: every storage counts once and in full,
    since a view keeps all of it. Parameters and buffers are there anyway and do not count.

    Args:
        work: the forward pass.
        model: whose parameters and buffers are left out.
    """
    known = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
    saved = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if _storage(tensor) not in known:
            saved[_storage(tensor)] = tensor.untyped_storage()  # held, so that no later one gets its address
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(storage.nbytes() for storage in saved.values())


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
