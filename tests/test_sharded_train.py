"""Stage two with the model sharded over processes (FSDP2), driven on two CPU processes, and the launch configs."""

import shutil
import subprocess
import sys

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from test_generator_train import EXACT, arguments, records, transformer_weights
from test_latent_cache import make_autoencoder

from autoencoder.common import commands
from autoencoder.common.run import LAST_AUTOENCODER, write_pointer
from generator import VidTwinDiT, fit
from generator import train as train_command

# Accelerate drives FSDP2 on accelerators only: on a CPU it has to be told that this is one.
SHARDED = """
import sys
import accelerate
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor
from generator import fit, train

class Sharded(accelerate.Accelerator):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for state in (AcceleratorState, PartialState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
        AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["DiTBlock"],
            cpu_ram_efficient_loading=False,
        )

class Watched(fit.GeneratorTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        assert self.accelerator.is_fsdp2 and all(isinstance(weight, DTensor) for weight in self.model.parameters())

fit.Accelerator, fit.GeneratorTrainer = Sharded, Watched
train.commands.run_command(lambda: train.main(sys.argv[1:]))
"""


def launch(script, flags, cwd) -> subprocess.CompletedProcess:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return subprocess.run([*torchrun, str(script), *flags], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_two_shards_train_like_one_model_and_resume_with_the_same_bits(tmp_path, monkeypatch):
    """Losses, validation, averages, checkpoints and pipelines; the checkpoint of shards fits one process, too."""
    monkeypatch.chdir(tmp_path)
    make_autoencoder().save_pretrained("autoencoder")
    write_pointer(LAST_AUTOENCODER, "autoencoder")
    (tmp_path / "sharded.py").write_text(SHARDED)
    short = {"max_steps": 6, "max_videos": 32, "validate_every": 3, "sample_every": 3, "latent_cache": "latents"}
    short |= {"second_ema_decay": 0.1}
    flags = arguments(tmp_path / "shards", micro_batch_size=2, **short)
    done = launch("sharded.py", flags, tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("resumed", "one"):
        shutil.copytree("shards", name)
        (tmp_path / name / "checkpoints/step-00000006").unlink()
    again = launch("sharded.py", [*arguments(tmp_path / "resumed", micro_batch_size=2, **short), "--resume"], tmp_path)
    assert again.returncode == 0, again.stderr
    config, model, folder, _ = train_command.parse([*arguments(tmp_path / "one", **short), "--resume"])
    fit.train(config, model, folder, progress=False)

    for name, tolerance in (("resumed", EXACT), ("one", {"rtol": 0, "atol": 1e-5})):
        states = [
            torch.load(tmp_path / run / "checkpoints/step-00000006", weights_only=True) for run in (name, "shards")
        ]
        for key in ("model", "averages", "schedule"):
            torch.testing.assert_close(*(state[key] for state in states), **tolerance)
        torch.testing.assert_close(*(state["optimizer"]["state"] for state in states), **tolerance)
        for pipeline in ("pipeline", "pipeline-ema2"):
            weights = [transformer_weights(tmp_path / run / pipeline) for run in (name, "shards")]
            torch.testing.assert_close(*weights, **tolerance)
        for tag in ("train/loss", "train/gradient_norm", "val/loss"):
            values = [[value for _, value in records(tmp_path / run, tag)] for run in (name, "shards")]
            assert values[0] == pytest.approx(values[1], rel=1e-5)
    average, other = (saved["shadow_params"] for saved in states[0]["averages"])
    assert any(not torch.equal(average[name], other[name]) for name in average)
    assert VidTwinDiT.from_pretrained(tmp_path / "shards/pipeline/transformer").config.num_classes == 10

    flags = arguments(tmp_path / "refused", micro_batch_size=2, **short)
    refused = launch("sharded.py", [*flags, "--optimizer.name=muon"], tmp_path)
    assert "optimizer.name=muon orthogonalises whole matrices" in refused.stderr


@pytest.mark.parametrize("name", ["multi_gpu", "multi_node", "fsdp2"])
def test_launch_configs_are_accelerates_and_leave_the_run_to_its_own_config(name):
    config = load_config_from_file(str(commands.PRESETS / f"accelerate/{name}.yaml"))
    assert config.num_processes == 8 * config.num_machines
    assert (config.mixed_precision, config.num_machines) == ("no", 2 if name == "multi_node" else 1)
    if name == "fsdp2":
        settings = config.fsdp_config
        assert settings["fsdp_version"] == 2 and not settings["fsdp_cpu_ram_efficient_loading"]
        assert settings["fsdp_transformer_layer_cls_to_wrap"] in VidTwinDiT._no_split_modules
