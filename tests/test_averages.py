"""Moving averages of the transformer: in few operations, and into models that share nothing with them."""

import pytest
import torch
from test_batches import make_cache, make_model
from torch.utils._python_dispatch import TorchDispatchMode

from generator import VidTwinDiT
from generator.averages import averaged_model, averaged_weights, make_average
from generator.objective import ObjectiveConfig


class Operations(TorchDispatchMode):
    """Counts what a device is given to do."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func not in (torch.ops.aten.detach.default, torch.ops.aten.alias.default)
        return func(*args, **kwargs or {})


@pytest.fixture
def model(tmp_path) -> VidTwinDiT:
    return make_model(make_cache(tmp_path), ObjectiveConfig(), positions="rotary")


def test_a_step_of_an_average_is_a_few_operations(model):
    average, expected = make_average(model, 0.9), [parameter.detach().clone() for parameter in model.parameters()]
    for step in range(1, 5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        with Operations() as operations:
            average.step(model.parameters())
        assert operations.count <= 3 < len(expected)
        for mean, parameter in zip(expected, model.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 1 - (step / (9 + step) if step > 1 else 0))
        torch.testing.assert_close(average.shadow_params, expected)


def test_the_weights_come_back_even_after_an_error(model):
    average, before = make_average(model, 0.9), [parameter.detach().clone() for parameter in model.parameters()]
    for shadow in average.shadow_params:
        shadow.add_(1)
    with pytest.raises(KeyError), averaged_weights(model, average):
        assert all(map(torch.equal, model.parameters(), average.shadow_params))
        raise KeyError
    assert all(map(torch.equal, model.parameters(), before))


def test_a_model_of_the_average_is_made_without_drawing_weights(model, monkeypatch):
    """It is a copy: neither the training nor who samples from it changes the other."""
    average = make_average(model, 0.9)
    for shadow in average.shadow_params:
        shadow.normal_()
    drawn = []
    for name in ("xavier_uniform_", "kaiming_uniform_", "normal_", "zeros_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: drawn.append(tensor.device.type))
    state = torch.get_rng_state()
    preview = averaged_model(model, average, keep=True)
    assert set(drawn) <= {"meta"} and torch.equal(torch.get_rng_state(), state)
    assert dict(preview.config) == dict(model.config)
    for parameter, shadow in zip(preview.parameters(), average.shadow_params, strict=True):
        assert torch.equal(parameter, shadow) and parameter.data_ptr() != shadow.data_ptr()
    for (name, buffer), expected in zip(preview.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(buffer, expected), name
    inputs = torch.randn(2, *model.layout.mask.shape), torch.tensor([1.0, 900.0]), torch.tensor([0, 5])
    with averaged_weights(model, average):
        assert torch.equal(preview(*inputs).sample, model(*inputs).sample)
    assert averaged_model(model, average, keep=False) is None
