"""Stage two from the command line: what it leaves behind, kills, several processes, and what it refuses."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_latent_cache import make_autoencoder
from video_files import make_ucf101

from autoencoder import AutoencoderVidTwin
from autoencoder.common import commands
from autoencoder.common.errors import UserError
from autoencoder.common.precision import resolve_precision
from autoencoder.common.run import LAST_AUTOENCODER, RunFolder, write_pointer
from autoencoder.data.shapes import CLASS_NAMES
from generator import VidTwinDiT, fit
from generator import train as train_command
from generator.config import TrainConfig
from generator.latent_cache import LatentCache, fingerprint
from generator.trainer import GeneratorTrainer
from pipelines import VidTwinDiffusionPipeline

RUN = {
    "precision": "fp32",
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 0.001,
    "max_steps": 20,
    "batch_size": 8,
    "max_videos": 160,
    "shard_size": 16,
    "checkpoint_every": 3,
    "log_every": 1,
    "validate_every": 5,
    "val_videos": 20,
    "second_ema_decay": 0.5,
    "sample_every": 8,
    "sample_classes": 2,
    "sample_steps": 2,
    "model.hidden_size": 16,
    "model.num_layers": 1,
    "model.num_attention_heads": 2,
    "model.structure_patch_size": "[2,1,1]",
}

EXACT = {"rtol": 0, "atol": 0}

LAUNCHERS = {
    "accelerate": (
        *("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"),
        *("--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"),
    ),
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
}
# The second checkpoint of this run stays half a file.
DIE_IN_A_CHECKPOINT = """
import os, signal, sys, torch
from generator import train
whole_save, paths = torch.save, []
def save(state, path):
    whole_save(state, path)
    paths.append(path)
    if len(paths) == 2:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = save
train.main(sys.argv[1:])
"""


def arguments(folder: Path, **more) -> list[str]:
    return [f"--{name}={value}" for name, value in (RUN | {"output_dir": folder} | more).items()]


def start(flags: list[str], cwd: Path, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [sys.executable, *launcher, "-m", "generator.train", *flags]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def kill(process: subprocess.Popen, moment: Callable[[], bool], delay: float = 0.0) -> None:
    """Send SIGKILL some seconds after the moment has come."""
    while not moment():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.0005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    output = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, output


def transformer_weights(pipeline: Path) -> dict[str, torch.Tensor]:
    return load_file(pipeline / "transformer/diffusion_pytorch_model.safetensors")


def records(run: Path, tag: str = "train/loss") -> list[tuple[int, float]]:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder as stage one leaves it."""
    root = tmp_path_factory.mktemp("workplace")
    make_autoencoder().save_pretrained(root / "autoencoder")
    write_pointer(root / LAST_AUTOENCODER, root / "autoencoder")
    return root


@pytest.fixture(scope="module")
def unbroken(workplace) -> Path:
    finish(start(arguments(workplace / "unbroken", micro_batch_size=4), workplace))
    return workplace / "unbroken"


def test_leaves_a_pipeline_checkpoints_and_curves(workplace, unbroken):
    assert sorted(path.name for path in (unbroken / "checkpoints").iterdir()) == ["step-00000018", "step-00000020"]
    assert Path((workplace / "outputs/last_pipeline").read_text().strip()) == (unbroken / "pipeline").resolve()

    vae = AutoencoderVidTwin.from_pretrained(workplace / "autoencoder")
    cache = LatentCache(workplace / f"outputs/latents/shapes-{fingerprint(vae)[:12]}")
    pipe = VidTwinDiffusionPipeline.from_pretrained(unbroken / "pipeline")
    config = pipe.transformer.config
    assert pipe("cross_vertical", 2, output_type="np").frames.shape == (1, 8, 32, 32, 3)
    assert fingerprint(pipe.vae) == fingerprint(vae)
    assert list(config.id2label.values()) == list(CLASS_NAMES) and config.prediction_type == "sample"
    assert {name: config[name] for name in cache.statistics} == cache.statistics

    state = torch.load(unbroken / "checkpoints/step-00000020", weights_only=True)
    assert [average["decay"] for average in state["averages"]] == [0.995, 0.5]
    weights = [state["model"], *(average["shadow_params"] for average in state["averages"])]
    second = VidTwinDiffusionPipeline.from_pretrained(unbroken / "pipeline-ema2")
    for saved, expected in ((pipe, weights[1]), (second, weights[2])):
        assert saved.transformer.state_dict().keys() == expected.keys()
        for name, parameter in saved.transformer.named_parameters():
            assert torch.equal(parameter, expected[name]), name
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert any(not torch.equal(weights[one][name], weights[other][name]) for name in weights[0])

    events = EventAccumulator(str(unbroken / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert [step for step, _ in records(unbroken)] == list(range(1, 21))
    assert [step for step, _ in records(unbroken, "val/loss")] == [5, 10, 15, 20]
    held_out = LatentCache(workplace / f"outputs/latents/shapes-val-{fingerprint(vae)[:12]}")
    assert len(held_out) == 20 and held_out.identity["split"] == "val"
    assert {"train/loss_structure", "train/loss_dynamics", "train/gradient_norm", "train/learning_rate"} < set(
        events.Tags()["scalars"]
    )
    tags = ["sample: circle_horizontal", "sample: triangle_vertical"]
    assert events.Tags()["images"] == tags
    pictures = events.Images(tags[0])
    assert [picture.step for picture in pictures] == [8, 16, 20]
    assert (pictures[0].width, pictures[0].height) == (32, 32) and pictures[0].encoded_image_string[:3] == b"GIF"
    texts = [tag.removesuffix("/text_summary") for tag in sorted(events.Tags()["tensors"])]
    assert texts == ["config", "machine", "memory/peak"]


def test_killed_runs_end_with_the_same_bits(workplace, unbroken):
    """Four kills: while caching, at two random moments, and in between in the middle of writing a checkpoint."""
    run, cache = RunFolder(workplace / "killed"), workplace / "killed-latents"
    flags = arguments(run.path, micro_batch_size=4, latent_cache=cache)
    chance = random.Random(time.time_ns())
    shard, reached = cache / f"shard-{chance.randrange(3):05d}.safetensors", chance.randrange(3, 7)
    kill(start(flags, workplace), shard.exists)
    assert not (cache / "index.json").exists()
    flags.append("--resume")
    kill(start(flags, workplace), lambda: run.newest_checkpoint()[1] >= reached, chance.uniform(0, 0.05))

    process = subprocess.Popen([sys.executable, "-c", DIE_IN_A_CHECKPOINT, *flags], cwd=workplace)
    assert process.wait(timeout=300) == -signal.SIGKILL
    assert len(list(run.checkpoints.glob(".step-*.tmp*"))) == 1
    kill(start(flags, workplace), lambda: run.newest_checkpoint()[1] >= 12, chance.uniform(0, 0.05))
    finish(start(flags, workplace))

    expected, actual = (
        torch.load(path / "checkpoints/step-00000020", weights_only=True) for path in (unbroken, run.path)
    )
    for name in ("model", "schedule", "averages"):
        torch.testing.assert_close(actual[name], expected[name], **EXACT)
    torch.testing.assert_close(actual["optimizer"]["state"], expected["optimizer"]["state"], **EXACT)
    for name in ("pipeline", "pipeline-ema2"):
        torch.testing.assert_close(transformer_weights(run.path / name), transformer_weights(unbroken / name), **EXACT)
    for tag in ("train/loss", "train/loss_dynamics", "train/gradient_norm", "train/learning_rate", "val/loss"):
        assert records(run.path, tag) == records(unbroken, tag)
    assert not list(run.checkpoints.glob(".*"))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_two_processes_train_like_one(workplace, unbroken, name):
    """The global batch of both is that of one process; it takes two micro-batches, they one each."""
    finish(start(arguments(workplace / name), workplace, LAUNCHERS[name]))
    for tag, steps in (
        ("train/loss", range(1, 21)),
        ("val/loss", range(5, 21, 5)),
        ("val/loss_dynamics", (5, 10, 15, 20)),
    ):
        expected, actual = records(unbroken, tag), records(workplace / name, tag)
        assert [step for step, _ in actual] == [step for step, _ in expected] == list(steps)
        for (_, one), (_, two) in zip(expected, actual, strict=True):
            assert two == pytest.approx(one, rel=1e-5)
    for pipeline in ("pipeline", "pipeline-ema2"):
        expected, actual = (transformer_weights(workplace / run / pipeline) for run in ("unbroken", name))
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("log_every, sample_every, last", [(1, 20, 5), (20, 20, 7), (20, 7, 6)])
def test_a_gradient_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    workplace, tmp_path, monkeypatch, log_every, sample_every, last
):
    """Even where nothing looks at the step itself: what is later is neither shown nor saved, and the step is named."""
    monkeypatch.chdir(workplace)
    every = {"checkpoint_every": 4, "log_every": log_every, "sample_every": sample_every, "validate_every": 20}
    flags = arguments(tmp_path / "nan", **every)
    config, model, folder, _ = train_command.parse(flags)
    steps = []

    def spoil(trainer: GeneratorTrainer) -> None:
        steps.append(trainer.step)
        if trainer.step == 5:
            trainer.model.structure_in.weight.data.fill_(float("nan"))

    with pytest.raises(FloatingPointError, match="step 6: the loss is nan, gradient_norm nan"):
        fit.train(config, model, folder, [spoil], progress=False)
    assert steps[-1] == last
    path, step = folder.newest_checkpoint()
    assert step == 4
    saved = torch.load(path, weights_only=True)
    weights = [saved["model"], *(average["shadow_params"] for average in saved["averages"])]
    assert all(tensor.isfinite().all() for tensors in weights for tensor in tensors.values())


def test_refuses_what_does_not_fit(workplace, unbroken, tmp_path, monkeypatch):
    with pytest.raises(FileExistsError, match="--resume"):
        train_command.parse(arguments(unbroken))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m autoencoder.train"):
        train_command.parse([])
    make_autoencoder(seed=1).save_pretrained("other")
    with pytest.raises(FileNotFoundError, match="nowhere holds no config.json"):
        train_command.parse(["--autoencoder", "nowhere"])

    flags = arguments(unbroken, autoencoder="other", latent_cache="other-latents", micro_batch_size=4)
    with pytest.raises(UserError, match="autoencoder=other, but .*autoencoder there"):
        train_command.parse([*flags, "--resume"])
    config, model, folder, _ = train_command.parse(["--output-dir", str(unbroken), "--resume"])
    config.autoencoder, config.latent_cache = "other", "other-latents"
    with pytest.raises(UserError, match="was trained on the latents of the autoencoder"):
        fit.train(config, model, folder, progress=False)
    assert not Path("other-latents").exists(), "latents of the wrong autoencoder were encoded"


def test_a_run_whose_data_are_missing_leaves_no_folder(workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(workplace)
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="films"):
        train_command.main([*arguments(folder), "--dataset=folder", f"--data-root={tmp_path / 'films'}"])
    assert not folder.exists()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumes_with_the_same_bits_whatever_the_optimizer(workplace, tmp_path, monkeypatch, optimizer):
    monkeypatch.chdir(workplace)
    flags = arguments(tmp_path / "run", max_steps=6, sample_every=6, **{"optimizer.name": optimizer})
    config, model, folder, _ = train_command.parse(flags)

    def ends() -> dict[str, torch.Tensor]:
        fit.train(config, model, folder, progress=False)
        state = torch.load(folder.checkpoint_path(6), weights_only=True)
        return state["model"] | {
            f"{name}/{key}": value
            for name, values in state["optimizer"]["state"].items()
            for key, value in values.items()
        }

    unbroken = ends()
    folder.checkpoint_path(6).unlink()
    assert folder.newest_checkpoint()[1] == 3
    torch.testing.assert_close(ends(), unbroken, **EXACT)

    config.second_ema_decay = None
    with pytest.raises(ValueError, match="holds 2 moving averages, second_ema_decay=None asks for 1"):
        fit.train(config, model, folder, progress=False)


# One graph for all blocks in training, one in validation and one for its last, smaller batch.
@torch._dynamo.config.patch(recompile_limit=3, fail_on_recompile_limit_hit=True)
def test_compiled_blocks_learn_the_same_under_the_same_names(workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(workplace)
    compiled, compile_blocks = [], VidTwinDiT.compile_repeated_blocks

    def traced(model: VidTwinDiT) -> None:
        compile_blocks(model, backend="aot_eager")  # traces as every backend does, and needs no C++ compiler
        compiled.append(model)

    monkeypatch.setattr(VidTwinDiT, "compile_repeated_blocks", traced)
    torch.compiler.reset()
    states = []
    for number, flag in enumerate(("--compile=false", "--compile")):
        flags = arguments(tmp_path / str(number), max_steps=3, sample_every=3)
        config, model, folder, _ = train_command.parse([*flags, flag])
        fit.train(config, model, folder, progress=False)
        states.append(torch.load(folder.checkpoint_path(3), weights_only=True)["model"])
    assert len(compiled) == 1 and all(block._compiled_call_impl for block in compiled[0].blocks)
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=1e-5)


def test_looks_follow_the_config_and_the_model_the_objective(workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(workplace)
    calls, call = [], VidTwinDiffusionPipeline.__call__

    def listen(pipeline, *args, **kwargs):
        calls.append(kwargs["guidance_interval"])
        return call(pipeline, *args, **kwargs)

    monkeypatch.setattr(VidTwinDiffusionPipeline, "__call__", listen)
    flags = arguments(tmp_path / "run", max_steps=1, sample_guidance_interval="[0.2,0.8]")
    flags += ["--objective.independent_times=true", "--objective.history_share=0.5"]
    config, model, folder, _ = train_command.parse(flags)
    fit.train(config, model, folder, progress=False)
    assert calls == [(0.2, 0.8)]
    pipe = VidTwinDiffusionPipeline.from_pretrained(folder.pipeline)
    assert pipe.transformer.config.independent_times and pipe.transformer.config.frame_times
    num_frames = 2 * pipe.vae.config.num_frames
    assert pipe(0, 1, num_frames=num_frames, guidance_interval=(0, 1)).frames.shape[1] == num_frames


def test_the_loss_on_held_out_videos_is_that_of_the_moving_average(workplace, tmp_path, monkeypatch):
    """Nothing that is random in training changes it, and its noise is the same at every step."""
    monkeypatch.chdir(workplace)
    seen = []

    def look(trainer: GeneratorTrainer) -> None:
        before = [parameter.clone() for parameter in trainer.model.parameters()]
        recorded = trainer.scalars["val/loss"]
        assert trainer._validate() == trainer._validate() and trainer._validate()["val/loss"] == recorded
        assert all(map(torch.equal, before, trainer.model.parameters()))
        trainer.averages[0].shadow_params[0].data.add_(1)
        seen.append(trainer._validate()["val/loss"] - recorded)
        trainer.averages[0].shadow_params[0].data.sub_(1)

    flags = arguments(tmp_path / "run", max_steps=2, validate_every=1, val_videos=20)
    config, model, folder, _ = train_command.parse(flags)
    fit.train(config, model, folder, [look], progress=False)
    assert len(seen) == 2 and seen[1] != 0


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("second_ema_decay", 1.0, "second_ema_decay must lie in"),
        ("validate_every", 0, "validate_every must be at least 1, got 0"),
        ("val_videos", 0, "val_videos must be at least 1, got 0"),
        ("sample_guidance_interval", (0.5, 0.2), r"sample_guidance_interval must .* got \(0.5, 0.2\)"),
    ],
)
def test_configs_are_checked(name, value, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{name: value})


def test_a_resumed_run_keeps_its_config_and_autoencoder(workplace, unbroken, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_autoencoder(seed=1).save_pretrained("later")
    write_pointer(LAST_AUTOENCODER, "later")
    config, model, folder, _ = train_command.parse(["--output-dir", str(unbroken), "--resume"])
    assert config.autoencoder == str(workplace / "autoencoder") and config.resume and config.max_steps == 20
    assert tuple(model["structure_patch_size"]) == (2, 1, 1) and folder.path == unbroken


def test_missing_data_say_where_and_what(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    config, model, folder, _ = train_command.parse(["--dataset", "ucf101"])
    assert config.precision == resolve_precision("auto", "cpu") and folder.path == Path("outputs/generator/run-001")
    with pytest.raises(FileNotFoundError, match=r"data/ucf101[\s\S]*classInd\.txt[\s\S]*--dataset shapes"):
        fit.train(config, model, folder)
    process = start(["--dataset", "folder"], workplace)
    output = process.communicate()[0]
    assert process.returncode == 1 and "Traceback" not in output
    assert "error: no videos in" in output and "data/folder" in output


def test_ucf101_with_the_recipe_of_the_paper(workplace, tmp_path, monkeypatch):
    """In bf16, with flips, class names and the paper's conditioning; layers are few and narrow."""
    monkeypatch.chdir(workplace)
    videos = ["Archery/v_Archery_g08_c01.avi", "Bowling/v_Bowling_g08_c01.avi"]
    make_ucf101(tmp_path, videos, ("Bowling", "Archery"))
    small = {"data_root": tmp_path, "output_dir": tmp_path / "run", "num_workers": 0}
    small |= {"max_steps": 2, "batch_size": 2, "sample_steps": 2}
    small |= {"model.hidden_size": 16, "model.num_layers": 1, "model.num_attention_heads": 2}
    flags = [f"--{name}={value}" for name, value in small.items()]
    config, model, folder, _ = train_command.parse(["--config", "ucf101_paper", *flags, "--precision=bf16"])
    assert (config.objective.kind, config.objective.label_dropout, config.precision) == ("sample", 0.2, "bf16")
    trainer = fit.train(config, model, folder, progress=False)
    assert len(trainer.cache) == 2 * 4 * 2 and trainer.scalars["train/loss"] > 0
    pipe = VidTwinDiffusionPipeline.from_pretrained(folder.pipeline)
    assert pipe.transformer.dtype == torch.float32 and pipe.transformer.config.id2label == {
        "0": "Bowling",
        "1": "Archery",
    }
    assert pipe(["Archery"], 2).frames.shape == (1, 8, 32, 32, 3)
    card = (folder.pipeline / "README.md").read_text()
    for text in (
        "1 `Archery`",
        f"| data | ucf101 {tmp_path.name} |",
        "| clips | 16 |",
        "| steps | 2 |",
        "| batch size | 2 |",
    ):
        assert text in card, text


@pytest.mark.parametrize("name", ["shapes", "ucf101", "ucf101_paper", "folder"])
def test_presets_build_on_the_latents_of_the_default_autoencoder(workplace, monkeypatch, name):
    """On the meta device, at full size; the tokens of the tiny autoencoder's small grids are padded where need be."""
    monkeypatch.chdir(workplace)
    config, settings, _, _ = train_command.parse(["--config", name])
    preset = yaml.safe_load(commands.preset_path("autoencoder", "tiny").read_text())
    with torch.device("meta"):
        vae = AutoencoderVidTwin(**preset["model"])
        model = VidTwinDiT(
            **settings,
            structure_shape=vae.structure_shape,
            dynamics_shape=vae.dynamics_shape,
            dynamics_axes=vae.dynamics_axes,
            prediction_type=config.objective.kind,
        )
    assert model.config.hidden_size == settings["hidden_size"] and len(model.blocks) == settings["num_layers"]
