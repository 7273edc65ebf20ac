"""Fake CUDA on a machine without a GPU.

Inside `FakeCuda`, tensors on "cuda" are fake (shapes, dtypes and devices only), those on the CPU are real:

    with FakeCuda() as gpu:
        model.to("cuda")
        gpu.waits.clear()  # of the preparation
        loss = model(torch.empty(2, 3, device="cuda")).mean()
        loss.backward()
        print(loss.item())
    gpu.assert_waits_only("tests/test_x.py test_of_mine: print(loss.item())")

It raises where an operation mixes devices, as CUDA does, and where a generator lies on another device than what is
drawn with it. It counts where the host waits for the device: numbers that are read, copies but those from pinned
memory that do not block, operations that synchronise, and `torch.cuda.synchronize`.

Limits: numbers read from the device are invented (0.5, 0 or another integer, True; every mask holds nothing but True),
and what finds a shape from them in other ways, such as `unique`, raises; autograd's own engine does not run on fake
CUDA tensors, so a small one stands in for it, which knows no hooks; `module.to` makes new weights, so optimisers come
after it; there are no generators, streams or events on "cuda"; `torch.cuda.is_available()` stays False. It leans on
private names of torch.
"""

import heapq
import pathlib
import traceback
from collections import Counter, defaultdict
from contextlib import ExitStack
from unittest import mock

import torch
import torch.cuda.amp.common as amp_common
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
ROOT = pathlib.Path(__file__).resolve().parents[1]  # places are named by the innermost frame below this folder

# Operations whose result, or whose check of it, the host has to see.
SYNCHRONISING = {
    getattr(aten, name)
    for name in (
        *("nonzero", "masked_select", "equal"),
        *("_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_inv_ex", "linalg_cholesky_ex", "_linalg_solve_ex"),
    )
}
MASKED = {aten.index, aten.index_put, aten.index_put_}  # with a mask for an index they look for what is not zero


def _place() -> str:
    """ "file function: line" of the innermost frame of the project."""
    for frame in reversed(traceback.extract_stack()):
        path = pathlib.Path(frame.filename)
        if path.is_relative_to(ROOT) and "site-packages" not in path.parts and frame.filename != __file__:
            return f"{path.relative_to(ROOT).as_posix()} {frame.name}: {frame.line}"
    return "outside of the project"


class FakeCuda(TorchDispatchMode):
    """Everything on "cuda" inside the block is fake; what the block changes in torch is undone at its end.

    Args:
        integer: what every integer is that is read from the device.

    Attributes:
        waits: how often the host waited, by (place, reason); a place is "file function: line", such as
            "generator/trainer.py _log: values = ...", of the innermost frame of the project.
    """

    def __init__(self, integer: int = 0):
        super().__init__()
        self.integer = integer
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.waits: Counter[tuple[str, str]] = Counter()
        self._pinned: dict[int, torch.UntypedStorage] = {}  # by address; held, so that no other tensor gets it

    def unexpected_waits(self, *allowed: str) -> list[str]:
        """The waits at places that begin with none of `allowed`, one line each."""
        return [
            f"{count} x {reason}: {place}"
            for (place, reason), count in sorted(self.waits.items())
            if not place.startswith(allowed)
        ]

    def assert_waits_only(self, *allowed: str) -> None:
        """Fail when the host waited elsewhere than at places that begin like one of these.

        Args:
            allowed: such as "generator/trainer.py _log", or with the beginning of the line after a colon.
        """
        found = self.unexpected_waits(*allowed)
        assert not found, "the host waited for the device:\n  " + "\n  ".join(found)

    def count(self, place: str = "") -> int:
        """How often the host waited at places that begin like this one."""
        return sum(count for (where, _), count in self.waits.items() if where.startswith(place))

    def __enter__(self):
        self._undo = ExitStack()
        patches = {
            torch.cuda: {
                "is_bf16_supported": lambda *args, **kwargs: True,
                "synchronize": lambda *args, **kwargs: self._wait("synchronize"),
                "reset_peak_memory_stats": lambda *args, **kwargs: None,
                "max_memory_allocated": lambda *args, **kwargs: 0,
                "set_device": lambda *args, **kwargs: None,
                "current_device": lambda: 0,
                "get_device_name": lambda *args, **kwargs: "fake GPU",
                "_lazy_init": lambda: None,
            },
            amp_common: {"amp_definitely_not_available": lambda: False},
            nn.Module: {"_apply": _apply},
            torch.Tensor: {"pin_memory": self._pin, "is_pinned": self._is_pinned},
            torch.autograd: {"backward": _backward, "grad": _grad},
        }
        for owner, values in patches.items():
            for name, value in values.items():
                value = _as_method(value) if owner is torch.Tensor else value
                self._undo.enter_context(mock.patch.object(owner, name, value))
        self._undo.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        torch._C._ensureCUDADeviceGuardSet()  # what FakeTensorMode does, too; it has no effect but for fake tensors
        return super().__enter__()

    def __exit__(self, *error):
        try:
            return super().__exit__(*error)
        finally:
            self._undo.close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        fakes = [x for x in leaves if isinstance(x, FakeTensor)]
        reals = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, FakeTensor)]
        to_cuda = any(isinstance(x, torch.device) and x.type == "cuda" for x in leaves)
        if not fakes and not to_cuda:
            return func(*args, **kwargs)
        _check_generators(func, leaves)
        if func is aten._local_scalar_dense.default:
            self._wait("number read")
            dtype = args[0].dtype
            return True if dtype is torch.bool else (0.5 if dtype.is_floating_point else self.integer)
        if func is aten._to_copy.default and fakes and kwargs.get("device") == torch.device("cpu"):
            if not kwargs.get("non_blocking"):
                self._wait("copy to the host")
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is aten.copy_.default and fakes and reals:
            self._copy(*args, **kwargs)
            return args[0]
        if to_cuda and reals:
            self._copy(None, reals[0], kwargs.get("non_blocking"))
        if func.overloadpacket in SYNCHRONISING:
            self._wait(str(func.overloadpacket))
        if func is aten.equal.default:
            return True
        with self.fake_mode:
            if func is aten.nonzero.default:
                return torch.stack(_all_places(args[0]), dim=1)
            if func is aten.masked_select.default:
                return args[0].expand(torch.broadcast_shapes(*(x.shape for x in args))).flatten()
            if func.overloadpacket in MASKED:
                args = (args[0], self._without_masks(args[1]), *args[2:])
            return func(*args, **kwargs)

    def _copy(self, target: torch.Tensor | None, source: torch.Tensor, non_blocking: bool | None = False) -> None:
        to_host = isinstance(source, FakeTensor)
        pinned = self._is_pinned(target if to_host else source)
        if not (non_blocking and pinned):
            direction = "to the host" if to_host else "to the device"
            self._wait(f"copy {direction}" + (" from memory that is not pinned" if non_blocking else ""))

    def _without_masks(self, indices: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
        found = []
        for index in indices:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                self._wait("index by a mask")
                found += _all_places(index)
            else:
                found.append(index)
        return found

    def _wait(self, reason: str) -> None:
        self.waits[_place(), reason] += 1

    def _pin(self, tensor: torch.Tensor, device=None) -> torch.Tensor:
        if self._is_pinned(tensor):
            return tensor
        pinned = tensor.clone(memory_format=torch.contiguous_format)
        self._pinned[pinned.untyped_storage().data_ptr()] = pinned.untyped_storage()
        return pinned

    def _is_pinned(self, tensor: torch.Tensor, device=None) -> bool:
        return not isinstance(tensor, FakeTensor) and tensor.untyped_storage().data_ptr() in self._pinned


def _as_method(function):
    return lambda tensor, *args, **kwargs: function(tensor, *args, **kwargs)


def _check_generators(func, leaves) -> None:
    for leaf in leaves:
        if isinstance(leaf, torch.Generator) and leaf.device.type != "cuda":
            raise RuntimeError(f"{func}: expected a 'cuda' device type for generator but found '{leaf.device}'")


def _all_places(mask: torch.Tensor) -> list[torch.Tensor]:
    """Indices of all places of a tensor, one per dimension."""
    return [torch.zeros(mask.numel(), dtype=torch.int64, device=mask.device) for _ in range(mask.ndim)]


def _apply(module: nn.Module, function, recurse: bool = True) -> nn.Module:
    """As `Module.to` does, with new weights in place of the old ones: a real tensor cannot become a fake one."""
    for child in module.children() if recurse else ():
        child._apply(function)
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            with torch.no_grad():
                moved = function(tensor)
            if moved is not tensor:
                is_weight = isinstance(tensor, nn.Parameter)
                tensors[name] = nn.Parameter(moved, tensor.requires_grad) if is_weight else moved
    return module


_real_backward, _real_grad = torch.autograd.backward, torch.autograd.grad


def _backward(tensors, grad_tensors=None, retain_graph=None, create_graph=False, inputs=None, **kwargs) -> None:
    tensors, grad_tensors = _as_tuple(tensors), _as_tuple(grad_tensors)
    if not isinstance(tensors[0], FakeTensor):
        return _real_backward(tensors, grad_tensors or None, retain_graph, create_graph, inputs=inputs, **kwargs)
    _propagate(tensors, grad_tensors, create_graph)


def _grad(outputs, inputs, grad_outputs=None, retain_graph=None, create_graph=False, **kwargs):
    outputs, inputs, grad_outputs = _as_tuple(outputs), _as_tuple(inputs), _as_tuple(grad_outputs)
    if not isinstance(outputs[0], FakeTensor):
        return _real_grad(outputs, inputs, grad_outputs or None, retain_graph, create_graph, **kwargs)
    return _propagate(outputs, grad_outputs, create_graph, inputs)


def _as_tuple(value) -> tuple:
    return () if value is None else (value,) if isinstance(value, torch.Tensor) else tuple(value)


def _propagate(outputs, gradients, create_graph: bool, inputs=()) -> tuple:
    """What autograd's engine does: gradients of `inputs`, or without any, of all leaves, added to their `grad`."""
    edge = torch.autograd.graph.get_gradient_edge
    wanted = [tuple(edge(tensor)[:2]) for tensor in inputs]
    roots = [tuple(edge(tensor)[:2]) for tensor in outputs]
    arrived = defaultdict(dict)  # by node: sums by the number of its input
    for (node, number), tensor, gradient in zip(roots, outputs, gradients or [None] * len(outputs), strict=True):
        arrived[node][number] = torch.ones_like(tensor) if gradient is None else gradient
    missing = _edges_into([node for node, _ in roots])
    ready = [(-node._sequence_nr(), id(node), node) for node in {node for node, _ in roots} if not missing[node]]
    heapq.heapify(ready)
    while ready:
        node = heapq.heappop(ready)[-1]
        given = [arrived[node].get(number) for number in range(len(node._input_metadata))]
        is_leaf = hasattr(node, "variable")
        skip = all(gradient is None for gradient in given) or (is_leaf and inputs)
        with torch.set_grad_enabled(create_graph):
            results = () if skip else _call(node, given)
        for number, (following, input_number) in enumerate(node.next_functions):
            if following is None:
                continue
            result = results[number] if number < len(results) else None
            if result is not None:
                result = _fitted(result, following._input_metadata[input_number])
                sums = arrived[following]
                sums[input_number] = sums[input_number] + result if input_number in sums else result
            missing[following] -= 1
            if not missing[following]:
                heapq.heappush(ready, (-following._sequence_nr(), id(following), following))
    return tuple(arrived[node].get(number) for node, number in wanted)


def _call(node, gradients: list[torch.Tensor | None]) -> tuple:
    results = node(*gradients) if callable(node) else node.apply(*gradients)  # written in C++, or in Python
    results = results if isinstance(results, tuple) else (results,)
    if len(results) > len(node.next_functions):  # one in Python answers for arguments that are no tensors, too
        results = tuple(result for result in results if result is not None)
    return results


def _edges_into(roots) -> Counter:
    counts, seen = Counter(), set(roots)
    stack = list(seen)
    while stack:
        for following, _ in stack.pop().next_functions:
            if following is not None:
                counts[following] += 1
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
    return counts


def _fitted(gradient: torch.Tensor, metadata) -> torch.Tensor:
    """In the shape and dtype of the tensor that it is the gradient of."""
    if gradient.shape != metadata.shape:
        gradient = gradient.sum_to_size(metadata.shape)
    return gradient.to(metadata.dtype)
