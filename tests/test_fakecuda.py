"""The fake CUDA that other tests stand on: it raises, counts, and leaves nothing behind."""

import numpy as np
import pytest
import torch
from fakecuda import FakeCuda
from torch import nn
from torch.utils.checkpoint import checkpoint

HERE = "tests/test_fakecuda.py"


def test_mixed_devices_raise():
    layer = nn.Linear(3, 4)
    with FakeCuda():
        layer.to("cuda")
        assert layer(torch.empty(2, 3, device="cuda")).device == torch.device("cuda:0")
        assert layer.to("cuda").half().weight.dtype is torch.float16 and isinstance(layer.weight, nn.Parameter)
        layer.float()
        with pytest.raises(RuntimeError, match="device"):
            layer(torch.empty(2, 3))
        with pytest.raises(RuntimeError, match="device"):
            torch.cat([torch.empty(2, device="cuda"), torch.empty(2)])
        with pytest.raises((RuntimeError, TypeError)):
            np.asarray(torch.empty(2, device="cuda"))
        assert (torch.empty(2, device="cuda") + torch.tensor(1.0)).device.type == "cuda"  # as on CUDA: a number


@pytest.mark.parametrize("draw", [torch.randn, torch.rand])
def test_a_generator_of_the_cpu_draws_nothing_on_cuda(draw):
    generator = torch.Generator().manual_seed(0)
    with FakeCuda():
        assert draw(2, generator=generator).device.type == "cpu"
        with pytest.raises(RuntimeError, match="generator"):
            draw(2, device="cuda", generator=generator)
        with pytest.raises(RuntimeError, match="generator"):
            torch.empty(2, device="cuda").normal_(generator=generator)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.mean()),
        lambda x: bool(x.isfinite().all()),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: torch.zeros(4).copy_(x),
        lambda x: x.copy_(torch.zeros(4)),
        lambda x: x.add(torch.zeros(4).to("cuda")),
        lambda x: torch.zeros(4).to("cuda", non_blocking=True),
        lambda x: torch.tensor([1.0, 2.0], device="cuda"),
        lambda x: x[x > 0],
        lambda x: x[:, None].expand(4, 2)[x > 0, 0],
        lambda x: x.index_put_((x > 0,), x),
        lambda x: x.masked_select(x[:, None] > 0),
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: torch.linalg.eigh(x.outer(x)),
        lambda x: torch.cuda.synchronize(),
    ],
)
def test_waits_are_counted(work):
    with FakeCuda() as gpu:
        x = torch.empty(4, device="cuda")
        gpu.assert_waits_only()
        work(x)
    assert gpu.count(f"{HERE} <lambda>: lambda x: ") == gpu.count() > 0
    gpu.assert_waits_only(f"{HERE} <lambda>")
    with pytest.raises(AssertionError, match=r"the host waited[^$]*test_fakecuda.py <lambda>: lambda x"):
        gpu.assert_waits_only("tests/other.py <lambda>", f"{HERE} <lambda>: something else")


def test_what_does_not_wait_is_not_counted():
    pinned_parts = torch.zeros(4, 2)
    with FakeCuda() as gpu:
        pinned_parts = pinned_parts.pin_memory()
        for part in pinned_parts.split(2):
            part.to("cuda", non_blocking=True)
        x = torch.zeros(4, device="cuda") + 1
        x[torch.arange(2, device="cuda")] = 0
        x[1:].masked_fill(x[1:] > 0, 1).softmax(0).half()
        torch.where(x > 0, x, 0)
        torch.empty(4, device="cuda").copy_(x)
        assert pinned_parts.is_pinned() and pinned_parts[1:].is_pinned() and not torch.zeros(4).is_pinned()
    gpu.assert_waits_only()


def test_backward_reaches_every_weight_and_mixed_devices_raise_there_too():
    class Mixing(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x * 2

        @staticmethod
        def backward(context, gradient):
            return gradient * torch.ones(4)  # on the CPU

    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    with FakeCuda() as gpu:
        model.to("cuda")
        gpu.waits.clear()
        with torch.autocast("cuda", torch.bfloat16):
            hidden = checkpoint(model, torch.zeros(2, 3, device="cuda"), use_reentrant=False)
        (weight_gradient,) = torch.autograd.grad(hidden.float().mean(), model[2].weight, retain_graph=True)
        assert weight_gradient.shape == (4, 4) and model[2].weight.grad is None
        hidden.float().square().mean().backward()
        for parameter in model.parameters():
            assert parameter.grad.shape == parameter.shape and parameter.grad.device.type == "cuda"
        torch.optim.AdamW(model.parameters()).step()
        gpu.assert_waits_only()
        with pytest.raises(RuntimeError, match="device"):
            Mixing.apply(model(torch.zeros(2, 3, device="cuda"))).sum().backward()


def test_the_small_engine_walks_the_graph_as_autograd_does():
    """With real tensors, where both can run: shared nodes, broadcasting, several outputs, leaves used twice."""
    from fakecuda import _propagate

    torch.manual_seed(0)
    x, w, b = (torch.randn(*shape, requires_grad=True) for shape in ((5, 3), (3, 4), (4,)))
    hidden = torch.tanh(x @ w + b)
    first, second = hidden.chunk(2, dim=1)
    outputs = (first * second.sum() + b[:2]).square().mean(), (hidden * b).sum()
    expected = torch.autograd.grad(outputs, (x, w, b, hidden), retain_graph=True)
    torch.testing.assert_close(_propagate(outputs, (), False, (x, w, b, hidden)), expected)
    _propagate(outputs, (), False)
    torch.testing.assert_close((x.grad, w.grad, b.grad), expected[:3])


def test_real_tensors_stay_real():
    x = torch.randn(3, requires_grad=True)
    with FakeCuda() as gpu:
        (x * 2).sum().backward()
        assert x.sum().item() == x.detach().numpy().sum()
    assert x.grad.tolist() == [2, 2, 2]
    gpu.assert_waits_only()


def test_nothing_leaks():
    from torch.cuda.amp import common

    def state():
        owners = (torch.cuda, torch.autograd, torch.Tensor, nn.Module, common)
        return [dict(vars(owner)) for owner in owners], torch._C._only_lift_cpu_tensors()

    torch.manual_seed(0)  # queues a call of torch.cuda for when CUDA is there
    before = state()
    with FakeCuda():
        torch.zeros(2, device="cuda").add(1)
        assert state() != before
    with pytest.raises(ZeroDivisionError), FakeCuda():
        torch.zeros(2, device="cuda").div(1 / 0)
    assert state() == before
    assert torch.cuda.is_available() is bool(torch.cuda.device_count())
    assert FakeCuda().waits == {}
    if not torch.cuda.is_available():
        with pytest.raises((RuntimeError, AssertionError)):
            torch.zeros(2, device="cuda")
    x = torch.ones(3, requires_grad=True)
    x.sum().backward()
    assert x.grad.tolist() == [1, 1, 1]
