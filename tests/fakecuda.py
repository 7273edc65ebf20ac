"""Fake CUDA on a machine without a GPU.

Tensors on "cuda" are fake (shapes, dtypes and devices only), CPU tensors are real:

    model = fakecuda.cuda(model)                     # weights and buffers on the fake device
    with fakecuda.FakeCuda():
        out = model(torch.empty(2, 3, device="cuda"))
    fakecuda.waits                                   # Counter: where the host waited for the device, or copied

It raises where an operation mixes devices, as CUDA would. Limits: autograd's engine does not run on it (stub
`backward`); numbers read from the device are invented (0.5, 0, True). It leans on private names of torch.
"""

import collections
import pathlib
import traceback

import torch
import torch.cuda.amp.common as amp_common
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
waits = collections.Counter()
ROOT = pathlib.Path.cwd()  # places are named by the innermost frame below this folder

amp_common.amp_definitely_not_available = lambda: False
torch.cuda.is_bf16_supported = lambda *args, **kwargs: True
for _name, _value in {
    "synchronize": None,
    "reset_peak_memory_stats": None,
    "max_memory_allocated": 0,
    "set_device": None,
}.items():
    setattr(torch.cuda, _name, lambda *args, _value=_value, **kwargs: _value)
torch._C._set_only_lift_cpu_tensors(True)
torch.cuda._lazy_init = lambda: None
torch._C._ensureCUDADeviceGuardSet()


def _place() -> str:
    frames = [
        f
        for f in traceback.extract_stack()
        if str(ROOT) in f.filename and ".venv" not in f.filename and f.filename != __file__
    ]
    return (
        f"{pathlib.Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno} {frames[-1].line}"
        if frames
        else "?"
    )


class FakeCuda(TorchDispatchMode):
    """Everything on "cuda" inside the block is fake."""

    def __init__(self):
        super().__init__()
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        fakes = [x for x in leaves if isinstance(x, FakeTensor)]
        reals = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, FakeTensor)]
        devices = [x for x in leaves if isinstance(x, torch.device)]
        to_cuda = any(device.type == "cuda" for device in devices)
        if func is aten._local_scalar_dense.default and fakes:
            waits["scalar " + _place()] += 1
            dtype = args[0].dtype
            return True if dtype is torch.bool else (0.5 if dtype.is_floating_point else 0)
        if func is aten._to_copy.default and fakes and devices and devices[0].type == "cpu":
            waits["to host " + _place()] += 1
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is aten.copy_.default and reals and fakes:
            waits[("to host " if args[0] is reals[0] else "to device ") + _place()] += 1
            return args[0]
        if to_cuda and reals:
            waits["to device " + _place()] += 1
        if fakes and func in (
            aten.nonzero.default,
            aten.masked_select.default,
            aten._unique2.default,
            aten.equal.default,
        ):
            waits[f"{func} " + _place()] += 1
            if func is aten.equal.default:
                return True
        if fakes or to_cuda:
            with self.fake_mode:
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def cuda(module: nn.Module, device: str = "cuda:0") -> nn.Module:
    """Replace weights and buffers by fake CUDA ones, inside `FakeCuda` (`Module.to` cannot)."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in list(tensors.items()):
                if tensor is not None:
                    moved = tensor.detach().to(device)
                    tensors[name] = (
                        nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
                    )
    return module
