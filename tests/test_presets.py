"""The configs hold the paper's numbers, and all of them parse."""

import pytest
import torch
import yaml

import configs
from autoencoder import AutoencoderVidTwin
from autoencoder.config import TrainConfig
from autoencoder.train import parse

PRESETS = sorted(path.stem for path in (configs.ROOT / "autoencoder").glob("*.yaml"))

# PAPER.md: parameters counted on the reference without what no forward reads, latent scalars, and the rate in percent.
COUNTED = {
    ("base",): (311_491_114, 3136, 1792, 0.205),
    ("base", "setting2"): (316_917_008, 3136, 2048, 0.215),
    ("base", "setting3"): (311_490_794, 2352, 1792, 0.172),
    ("base", "released"): (311_518_770, 6272, 1792, 0.335),
    ("small",): (106_105_642, 3136, 1792, 0.205),
    ("large",): (1_237_268_266, 3136, 1792, 0.205),
}
SIZES = {"small": (12, 8, 512), "base": (16, 12, 768), "large": (16, 12, 1536)}


def parsed(*presets: str, flags: tuple[str, ...] = ()) -> tuple[TrainConfig, AutoencoderVidTwin]:
    """Parse presets as the command does, with weights on the meta device."""
    arguments = [part for preset in presets for part in ("--config", preset)]
    with torch.device("meta"):
        config, model, _, _ = parse([*arguments, *flags])
    return config, model


@pytest.mark.parametrize("presets", COUNTED, ids="+".join)
def test_parameters_and_rates_are_the_papers(presets):
    parameters, structure, dynamics, rate = COUNTED[presets]
    _, model = parsed(*presets)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert torch.Size(model.structure_shape).numel() == structure
    assert torch.Size(model.dynamics_shape).numel() == dynamics
    assert model.num_latent_scalars == structure + dynamics
    assert round(100 * model.compression_rate, 3) == rate


@pytest.mark.parametrize("name", SIZES)
def test_sizes_train_as_the_paper_does(name):
    config, model = parsed(name)
    assert (model.config.num_layers, model.config.num_attention_heads, model.config.hidden_size) == SIZES[name]
    assert model.video_shape == (3, 16, 224, 224)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.betas, optimizer.learning_rate) == ("adam", (0.9, 0.99), 1.6e-4)
    assert (optimizer.warmup_steps, optimizer.schedule, optimizer.weight_decay) == (5000, "cosine", 1e-4)
    assert config.batch_size // (config.devices * config.num_nodes) == 6 and config.devices == 4
    assert (config.dataset, config.sample_fps, config.precision) == ("folder", 8.0, "bf16")
    assert (config.kl_weight, config.lpips_weight) == (1e-3, 0.05)
    assert (config.gan, config.gan_start, config.gan_weight) == (True, 10_000, 0.05)


def test_the_released_config_replaces_both_optimisers():
    config, _ = parsed("base", "released")
    roles = ((config.optimizer, 3e-5), (config.discriminator_optimizer, 1.5e-5))
    for optimizer, learning_rate in roles:
        assert (optimizer.name, optimizer.betas, optimizer.learning_rate) == ("adamw", (0.0, 0.9), learning_rate)
    assert (config.gan, config.lpips_weight, config.optimizer.warmup_steps) == (True, 0.05, 5000)


def test_without_flags_nothing_needs_weights():
    config, _ = parsed()
    assert config.lpips_weight == 0 and not config.gan


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_parses(name):
    config, model = parsed(name)
    given = yaml.safe_load((configs.ROOT / "autoencoder" / f"{name}.yaml").read_text())
    for key, value in given.pop("model").items():
        assert model.config[key] == value, key
    for role in ("optimizer", "discriminator_optimizer"):
        for key, value in given.pop(role, {}).items():
            assert getattr(getattr(config, role), key) == (tuple(value) if isinstance(value, list) else value), key
    assert {key: getattr(config, key) for key in given} == given


def test_overrides_keep_the_rest():
    config, model = parsed("small", "setting2", flags=("--batch-size=8", "--model.num-layers=2"))
    assert (model.config.hidden_size, model.config.dynamics_channels, model.config.num_layers) == (512, 16, 2)
    assert (config.batch_size, config.optimizer.name) == (8, "adam")


@pytest.mark.parametrize("flag", ["--model.hiden-size=8", "--optimizer.lr=1", "--steps=3"])
def test_unknown_flags_are_errors(flag, capsys):
    with pytest.raises(SystemExit):
        parsed("tiny", flags=(flag,))
    assert flag[2:].split("=")[0].split(".")[-1].replace("-", "_") in capsys.readouterr().err


def test_unknown_keys_of_a_file_are_errors(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("model:\n  hiden_size: 8\n")
    with pytest.raises(SystemExit):
        parsed(str(tmp_path / "mine.yaml"))
    assert "hiden_size" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--resume",), ("--resume=true",), ("--resume", "True"), ("--resume", "false"), ()])
def test_every_way_to_say_resume(flags, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("max_steps: 7\n")
    arguments = [f"--output-dir={folder}", *flags]
    if flags in ((), ("--resume", "false")):
        with pytest.raises(FileExistsError, match="--resume"), torch.device("meta"):
            parse(arguments)
    else:
        with torch.device("meta"):
            config, *_ = parse(arguments)
        assert config.resume and config.max_steps == 7
