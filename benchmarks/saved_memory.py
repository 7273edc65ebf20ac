"""Counting the memory of a training step without running it, for machines without a GPU."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class CountedMemory:
    """Bytes that a training step with Adam holds when its backward pass begins.

    Attributes:
        parameters: bytes of the weights. Gradients take the same again, and Adam's two averages twice the same.
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
    saved = _Storages(known)
    with saved_tensors_hooks(saved.add, lambda tensor: tensor):
        work()
    return saved.nbytes


def count_saved_in_blocks(
    work: Callable[[], object], model: nn.Module, others: Sequence[nn.Module] = ()
) -> tuple[int, int]:
    """As `count_saved`, without and with gradient checkpointing of the model's blocks.

    With checkpointing the blocks' inputs are kept and, while a block is computed again, what autograd saves inside it;
    the largest block counts.

    Args:
        work: the forward pass.
        model: a diffusers model that supports gradient checkpointing.
        others: further modules whose parameters and buffers are left out.

    Returns:
        Bytes without and with gradient checkpointing.
    """
    modules = (model, *others)
    known = {_storage(tensor) for module in modules for tensor in (*module.parameters(), *module.buffers())}
    outside, inputs, blocks = _Storages(known), _Storages(known), []

    def block_of(block: Callable, *args) -> object:
        for leaf in tree_leaves(args):
            if isinstance(leaf, torch.Tensor):
                inputs.add(leaf)
        blocks.append(inside := _Storages(known))
        with saved_tensors_hooks(inside.add, lambda tensor: tensor):
            return block(*args)

    model.enable_gradient_checkpointing(block_of)
    with saved_tensors_hooks(outside.add, lambda tensor: tensor):
        result = work()  # kept alive, so that the saved storages are not freed
    model.disable_gradient_checkpointing()
    kept = outside | inputs
    largest = max(((block - kept).nbytes for block in blocks), default=0)
    whole = outside
    for block in blocks:
        whole = whole | block
    del result
    return whole.nbytes, kept.nbytes + largest


class _Storages:
    """A set of storages, which it keeps alive, so that no later one gets the address of an earlier one."""

    def __init__(self, known: Set[int], found: dict[int, torch.UntypedStorage] | None = None):
        self.known, self.found = known, found or {}

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """Note a tensor's storage, unless it is known; returns the tensor."""
        if (address := _storage(tensor)) not in self.known:
            self.found[address] = tensor.untyped_storage()
        return tensor

    def __or__(self, other: "_Storages") -> "_Storages":
        return _Storages(self.known, self.found | other.found)

    def __sub__(self, other: "_Storages") -> "_Storages":
        return _Storages(self.known, {key: self.found[key] for key in self.found.keys() - other.found.keys()})

    @property
    def nbytes(self) -> int:
        return sum(storage.nbytes() for storage in self.found.values())


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
