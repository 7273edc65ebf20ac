"""Stage one on a GPU, as far as fake CUDA shows it: devices do not mix, and no step waits where no scalar is logged."""

from types import SimpleNamespace

import pytest
import torch
from fakecuda import FakeCuda
from lightning.fabric.utilities import move_data_to_device
from tiny_models import tiny_vae
from torch import nn
from torch.utils.data._utils.pin_memory import pin_memory

from autoencoder.common.errors import NumericalError
from autoencoder.common.guard import FiniteGuard
from autoencoder.training.config import ExchangeConfig, InterpolatingNoiseConfig, KLConfig, TrainConfig
from autoencoder.training.datamodule import NoisyCollate
from autoencoder.training.exchange import KEPT, SOURCES
from autoencoder.training.module import VidTwinModule
from autoencoder.training.noise import LatentNoise

# Where the host may wait in a run: where scalars are logged, and in a validation.
LOGGING = ("autoencoder/training/module.py _log_step", "autoencoder/common/guard.py check")
VALIDATION = (
    "autoencoder/training/module.py _take_average",
    "autoencoder/training/module.py validation_step",
    "autoencoder/metrics/reconstruction.py update",
    "autoencoder/common/guard.py check",
)
SIDE = 32


class LpipsStub(nn.Module):
    """As `VidTwinLoss` takes LPIPS: frozen, from two batches of images to a number each."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.requires_grad_(False).eval()

    def forward(self, images, others):
        return (self.conv(images) - self.conv(others)).square().mean((1, 2, 3))


def make_module(optimizer: str, **settings) -> VidTwinModule:
    """A module with everything on, and as much of a trainer as a step asks for."""
    config = TrainConfig(
        **{"gan": True, "gan_start": 0, "max_steps": 100, "batch_size": 2, "micro_batch_size": 1, "ema_decay": 0.9}
        | {"latent_noise": 0.1, "lpips_weight": 0.05, "log_every": 3, "precision": "bf16", "devices": 1}
        | settings
    )
    config.optimizer.name = optimizer
    module = VidTwinModule(tiny_vae(4, SIDE), config, num_files=10, lpips=LpipsStub())
    module.trainer = SimpleNamespace(
        world_size=1,
        global_rank=0,
        global_step=0,
        is_global_zero=True,
        should_stop=False,
        loggers=[],
        logger=None,
        strategy=SimpleNamespace(backward=lambda loss, *_: torch.autograd.backward(loss)),
    )
    module.log = lambda *_, **__: None
    return module


def start_on_gpu(module: VidTwinModule) -> None:
    """What Lightning does before the first step."""
    module.on_train_start()
    module.to("cuda:0")
    if module.ema:
        module.ema.to(module.device)
    optimizers, schedules = module.configure_optimizers()
    module.trainer.optimizers = optimizers
    module.optimizers = lambda: [SimpleNamespace(step=optimizers[0].step), SimpleNamespace(optimizer=optimizers[1])]
    module.lr_schedulers = lambda: schedules


def batch_on_gpu(module: VidTwinModule) -> dict:
    """A training batch as the loader's workers and Lightning bring it."""
    vae = module.model
    config = module.config
    added = config.latent_noise, config.interpolating_noise, config.batch_size
    noise = LatentNoise(0, vae.structure_shape, vae.dynamics_shape, *added)
    items = [
        {
            "sample": {"video": torch.zeros(4, SIDE, SIDE, 3, dtype=torch.uint8), "label": 0, "position": position},
            "tried": [position],
            "unreadable": {},
        }
        for position in range(module.config.batch_size)
    ]
    for item in items if module.config.exchange.is_on else ():
        item["sample"] |= {source: item["sample"]["video"].clone() for source in SOURCES} | {KEPT: torch.ones(())}
    return move_data_to_device(pin_memory(NoisyCollate(noise)(items)), torch.device("cuda:0"))


def take_step(module: VidTwinModule) -> None:
    with torch.autocast("cuda", torch.bfloat16):
        module.training_step(batch_on_gpu(module), 0)
    module.trainer.global_step += 1


@pytest.mark.parametrize("optimizer, share", [("adam", 0.5), ("muon", 0.0)])
def test_a_step_waits_only_where_it_logs(optimizer, share):
    """Nor does skipping a step that is not finite wait, which either optimiser does on the device."""
    module = make_module(
        optimizer,
        exchange=ExchangeConfig(share),
        structure_kl=KLConfig(0.1, warmup_steps=9),
        interpolating_noise=InterpolatingNoiseConfig(share),
    )
    with FakeCuda() as gpu:
        start_on_gpu(module)
        for step in range(2):
            gpu.waits.clear()
            take_step(module)
            gpu.assert_waits_only(*(LOGGING if step == 0 else ()))
            assert all(optimizer.found_inf.is_cuda for optimizer in module.trainer.optimizers)


def test_validation_runs_on_the_gpu_and_waits_where_results_leave_it():
    module = make_module("adam")
    with FakeCuda() as gpu:
        start_on_gpu(module)
        gpu.waits.clear()
        video = torch.zeros(3, 4, SIDE, SIDE, 3, dtype=torch.uint8).pin_memory()
        batch = move_data_to_device({"sample": {"video": video}, "unreadable": {}}, torch.device("cuda:0"))
        module.on_validation_epoch_start()
        with torch.no_grad():
            module.validation_step(batch, 0)
        gpu.assert_waits_only(*VALIDATION)


@pytest.mark.parametrize("part", ["both", "structure", "dynamics"])
def test_encode_and_decode_wait_for_nothing(part):
    vae = tiny_vae()
    with FakeCuda() as gpu, torch.no_grad():
        vae.to("cuda")
        gpu.waits.clear()
        latents = vae.encode(torch.empty(2, *vae.video_shape, device="cuda")).latent_dist.sample()
        assert vae.decode(latents, part).sample.is_cuda
        gpu.assert_waits_only()


def test_a_bad_step_is_found_where_the_record_is_read():
    """Also when it is the second side's gradient, when steps that are fine come after it, and when worse come later."""
    guard, fine = FiniteGuard("gradient_norm", "discriminator_gradient_norm"), torch.tensor(1.0)
    guard.check()
    for step, norm in enumerate((1.0, float("nan"), 1.0, float("inf")), start=1):
        norms = {"gradient_norm": fine, "discriminator_gradient_norm": torch.tensor(norm)}
        is_bad = guard.watch(step, torch.tensor(10.0 * step), norms)
        assert is_bad.item() == (step % 2 == 0)
    with pytest.raises(NumericalError, match=r"step 2: the loss is 20.0, gradient_norm 1.0, .*gradient_norm nan"):
        guard.check()
