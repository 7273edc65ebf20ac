"""Stage one from the command line: what it leaves behind, and that a killed run ends like one that never was."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autoencoder import AutoencoderVidTwin
from autoencoder import train as train_command
from autoencoder.training import fit
from autoencoder.training.losses import VidTwinLoss

MODEL = {
    "num_frames": 8,
    "sample_size": 32,
    "patch_size": 8,
    "hidden_size": 16,
    "num_layers": 1,
    "num_attention_heads": 2,
    "structure_queries": 2,
    "structure_channels": 2,
    "structure_downsamples": 1,
    "structure_conv_channels": 8,
    "dynamics_channels": 2,
    "dynamics_downsamples": 0,
    "qformer_hidden_size": 8,
    "qformer_num_layers": 1,
    "qformer_num_attention_heads": 2,
    "qformer_intermediate_size": 8,
    "qformer_dropout": 0.1,
}
RUN = {
    "max_steps": 24,
    "batch_size": 4,
    "micro_batch_size": 2,
    "checkpoint_every": 3,
    "validate_every": 5,
    "num_held_out": 3,
    "log_every": 1,
    "precision": "fp32",
}


def arguments(folder: Path, **more) -> list[str]:
    flags = RUN | {"output_dir": folder} | more | {f"model.{name}": value for name, value in MODEL.items()}
    return [f"--{name}={value}" for name, value in flags.items()]


def start(flags: list[str], cwd: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "autoencoder.train", *flags]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, process: subprocess.Popen) -> bool:
    """Whether the condition came true before the process ended."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.0005)
    return False


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    process = start(arguments(folder), folder.parent)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return folder


def test_leaves_a_model_checkpoints_and_curves(unbroken):
    model = AutoencoderVidTwin.from_pretrained(unbroken / "model")
    assert {name: model.config[name] for name in MODEL} == MODEL
    assert sorted(path.name for path in (unbroken / "checkpoints").iterdir()) == ["step-00000021", "step-00000024"]
    pointer = (unbroken.parent / "outputs/last_autoencoder").read_text().strip()
    assert Path(pointer) == (unbroken / "model").resolve()

    events = EventAccumulator(str(unbroken / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 25))
    assert [event.step for event in events.Scalars("val/psnr")] == [5, 10, 15, 20, 24]
    assert {"val/ssim", "throughput/clips_per_second", "throughput/flops_per_step"} <= set(events.Tags()["scalars"])
    picture = events.Images("clip 0: original, both, structure, dynamics")[-1]
    assert (picture.width, picture.height) == (4 * 32, 32)
    assert picture.encoded_image_string[:3] == b"GIF"
    texts = [tag.removesuffix("/text_summary") for tag in sorted(events.Tags()["tensors"])]
    assert texts == ["config", "machine", "memory/peak"]


def test_killed_runs_end_with_the_same_bits(unbroken, tmp_path):
    """Three kills: at a random moment, in the middle of writing a checkpoint, and at another random moment."""
    folder = tmp_path / "run"
    chance = random.Random(time.time_ns())
    reached = chance.randrange(1, 9)
    moments = [
        lambda: (folder / f"checkpoints/step-{3 * ((reached + 2) // 3):08d}").exists(),
        lambda: any((folder / "checkpoints").glob(".step-*.tmp*")),
        lambda: (folder / "checkpoints/step-00000018").exists(),
    ]
    for number, moment in enumerate(moments):
        more = ["--resume", "--num-workers=2"] if number else []
        process = start([*arguments(folder), *more], tmp_path)
        assert wait_for(moment, process), process.communicate()[0]
        if number != 1:
            time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        output = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, output

    process = start([*arguments(folder), "--resume"], tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    expected, actual = (load_file(path / "model/diffusion_pytorch_model.safetensors") for path in (unbroken, folder))
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, actual[name]), name

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    reference = EventAccumulator(str(unbroken / "tensorboard"))
    reference.Reload()
    for tag in ("train/loss", "val/psnr"):
        values = [(event.step, event.value) for event in events.Scalars(tag)]
        assert values == [(event.step, event.value) for event in reference.Scalars(tag)]
    assert not list((folder / "checkpoints").glob(".*"))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    config, model, folder, _ = train_command.parse(arguments(tmp_path / "run", checkpoint_every=2))
    sound = VidTwinLoss.forward
    calls = iter(range(1000))

    def forward(self, *batch):
        loss, terms = sound(self, *batch)
        if next(calls) == 5 * 2:  # the first micro-batch of step 6
            loss = terms["loss"] = loss * float("nan")
        return loss, terms

    monkeypatch.setattr(VidTwinLoss, "forward", forward)
    with pytest.raises(FloatingPointError, match="step 6: the loss is nan"):
        fit.train(config, model, folder)
    path, step = folder.newest_checkpoint()
    assert step == 4
    state = torch.load(path, weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_refuses_a_folder_that_holds_a_run(unbroken):
    with pytest.raises(FileExistsError, match="--resume"):
        train_command.parse(arguments(unbroken))


def test_missing_data_say_where_and_what(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, model, folder, _ = train_command.parse(arguments(tmp_path / "run", dataset="ucf101"))
    with pytest.raises(FileNotFoundError, match=r"data/ucf101[\s\S]*classInd\.txt[\s\S]*--dataset shapes"):
        fit.train(config, model, folder)


def test_two_processes_give_the_losses_of_one(tmp_path):
    losses = []
    for devices in (1, 2):
        folder = tmp_path / f"devices-{devices}"
        flags = arguments(folder, devices=devices, accelerator="cpu", micro_batch_size=4, max_steps=20)
        # Not Muon, which rounds to bf16 whatever the precision.
        flags += ["--model.qformer_dropout=0", "--optimizer.name=adamw", "--optimizer.learning_rate=0.001"]
        process = start(flags, tmp_path)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        losses.append([event.value for tag in ("train/loss", "val/psnr") for event in events.Scalars(tag)])
    assert len(losses[0]) > 20  # every loss, and the validations
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
