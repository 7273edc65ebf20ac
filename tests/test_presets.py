"""The configs hold the paper's numbers, and all of them parse."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml

from autoencoder import AutoencoderVidTwin
from autoencoder.common import commands
from autoencoder.common.device import resolve_device
from autoencoder.common.precision import resolve_precision
from autoencoder.train import parse
from autoencoder.training.config import TrainConfig
from generator import VidTwinDiT
from generator import train as generator_train
from generator.config import TrainConfig as GeneratorConfig
from generator.objective import make_scheduler

PRESETS = sorted(path.stem for path in (commands.PRESETS / "autoencoder").glob("*.yaml"))

# Parameters counted on the reference without those that no forward reads, latent scalars, and the rate in percent.
COUNTED = {
    ("base",): (311_491_114, 3136, 1792, 0.205),
    ("base", "setting2"): (316_917_008, 3136, 2048, 0.215),
    ("base", "setting3"): (311_490_794, 2352, 1792, 0.172),
    ("base", "released"): (311_518_770, 6272, 1792, 0.335),
    ("small",): (106_105_642, 3136, 1792, 0.205),
    ("large",): (1_237_268_266, 3136, 1792, 0.205),
}
SIZES = {"small": (12, 8, 512), "base": (16, 12, 768), "large": (16, 12, 1536)}

GENERATOR_PRESETS = sorted(path.stem for path in (commands.PRESETS / "generator").glob("*.yaml"))
# arXiv 2212.09748: layers, width, heads, and the millions of parameters that its table states.
DIT_SIZES = {"size_s": (12, 384, 6, 33), "size_b": (12, 768, 12, 130)}
DIT_SIZES |= {"size_l": (24, 1024, 16, 458), "size_xl": (28, 1152, 16, 675)}


def parsed(*presets: str, flags: tuple[str, ...] = ()) -> tuple[TrainConfig, AutoencoderVidTwin]:
    """Parse presets as the command does, with weights on the meta device."""
    arguments = [part for preset in presets for part in ("--config", preset)]
    with torch.device("meta"):
        config, model, _, _ = parse([*arguments, *flags])
    return config, model


def preset(stage: str, name: str) -> dict[str, Any]:
    """What a preset's file says, its precision as it comes out on this machine."""
    given = yaml.safe_load((commands.PRESETS / stage / f"{name}.yaml").read_text())
    if "precision" in given:
        given["precision"] = resolve_precision(given["precision"], resolve_device("auto"))
    return given


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
    assert config.batch_size == 24 and config.devices == "auto"
    assert config.sample_fps == 8.0
    assert (config.kl_weight, config.lpips_weight) == (1e-3, 0.05)
    assert (config.gan, config.gan_start, config.gan_weight) == (True, 10_000, 0.05)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_train_alike_on_any_number_of_gpus(name, monkeypatch):
    config, _ = parsed(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for gpus in (1, 2, 3, 4, 8):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert config.num_processes == gpus
        sizes = config.micro_batches(gpus)
        assert gpus * sum(sizes) == 24 and max(sizes) <= (3 if name == "large" else 6)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    with pytest.raises(ValueError, match="batch_size=24 cannot be shared out equally to 5 devices"):
        TrainConfig(batch_size=24)


def test_devices_are_those_of_the_launcher_or_one_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert TrainConfig().num_devices == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert TrainConfig(num_nodes=2).num_processes == 4
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert TrainConfig().num_devices == 2
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert TrainConfig(devices=4).num_devices == 4 and TrainConfig(accelerator="cpu").num_devices == 1


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
    given = preset("autoencoder", name)
    for key, value in given.pop("model").items():
        assert model.config[key] == value, key
    for role in [key for key, value in given.items() if isinstance(value, dict)]:
        for key, value in given.pop(role).items():
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
    assert f"there is no {flag.split('=')[0]}" in capsys.readouterr().err


def test_unknown_keys_of_a_file_are_errors(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("model:\n  hiden_size: 8\n")
    with pytest.raises(SystemExit):
        parsed(str(tmp_path / "mine.yaml"))
    assert "hiden_size" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--resume",), ("--resume=true",), ("--resume", "True"), ("--resume", "false"), ()])
def test_every_way_to_say_resume(flags, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("max_steps: 7\nprecision: fp32\n")
    arguments = [f"--output-dir={folder}", *flags]
    if flags in ((), ("--resume", "false")):
        with pytest.raises(FileExistsError, match="--resume"), torch.device("meta"):
            parse(arguments)
    else:
        with torch.device("meta"):
            config, *_ = parse(arguments)
        assert config.resume and config.max_steps == 7


def flattened(stage: str, name: str) -> dict[str, Any]:
    """The settings of a preset by dotted key."""
    content = yaml.safe_load((commands.PRESETS / stage / f"{name}.yaml").read_text())
    nested = {f"{group}.{key}": value for group in content for key, value in _items(content[group])}
    return {key: value for key, value in content.items() if not isinstance(value, dict)} | nested


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


OF_MUON = {f"optimizer.{name}" for name in ("momentum", "newton_schulz_steps", "fallback_lr_scale")}


@pytest.mark.parametrize("stage, defaults", [("autoencoder", ["tiny"]), ("generator", ["shapes", "folder", "ucf101"])])
def test_a_whole_recipe_says_all_that_lies_under_it(stage, defaults):
    presets = {path.stem: flattened(stage, path.stem) for path in (commands.PRESETS / stage).glob("*.yaml")}
    wanted = set().union(*(presets[name] for name in defaults))
    recipes = [name for name, settings in presets.items() if "max_steps" in settings]
    assert set(defaults) < set(recipes)
    for name in recipes:
        unread = OF_MUON if presets[name].get("optimizer.name") != "muon" else set()
        assert wanted - unread <= set(presets[name]), name


def test_sizes_of_stage_one_leave_the_data_alone():
    for name in PRESETS:
        assert not {"dataset", "data_root", "held_out_root"} & set(flattened("autoencoder", name)), name


@pytest.mark.parametrize("order", [("--dataset ucf101", "--config base"), ("--config base", "--dataset ucf101")])
def test_the_readmes_command_means_ucf101(order, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    flags = " ".join(order).split()
    with torch.device("meta"):
        config, model, _, text = parse([*flags, "--max-steps", "20000", "--model.num-layers=1"])
    assert (config.dataset, config.max_steps, config.gan) == ("ucf101", 20000, True)
    assert (model.config.hidden_size, model.config.num_layers) == (768, 1)
    assert yaml.safe_load(text)["dataset"] == "ucf101"


@pytest.mark.parametrize("said", ["flags", "file"])
def test_a_file_chooses_folder_and_resumes_as_flags_do(said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.yaml").write_text("max_steps: 9\nprecision: fp32\nmodel: {hidden_size: 48}\n")
    settings = {"output_dir": "mine", "resume": True, "log_every": 3}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(settings))
    flags = [f"--{key}={str(value).lower()}" for key, value in settings.items()]
    with torch.device("meta"):
        config, model, folder, _ = parse(flags if said == "flags" else ["--config", "my.yaml"])
    assert str(folder.path) == "mine" and config.resume
    assert (config.max_steps, config.log_every) == (9, 3)
    assert model.config.hidden_size == 48


@pytest.mark.parametrize("said", ["flags", "file"])
def test_a_file_chooses_the_preset_of_stage_two_as_flags_do(said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "my.yaml").write_text(f"dataset: folder\nmax_steps: 5\nautoencoder: {tmp_path}\noutput_dir: out\n")
    flags = f"--dataset folder --max-steps 5 --autoencoder {tmp_path} --output-dir out".split()
    config, settings, folder, _ = generator_train.parse(flags if said == "flags" else ["--config", "my.yaml"])
    assert (config.flip, config.batch_size, config.max_steps, str(folder.path)) == (True, 64, 5, "out")
    assert settings["hidden_size"] == 768


def test_another_data_sets_recipe_keeps_the_data(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    flags = f"--dataset folder --data-root X --config shapes --autoencoder {tmp_path}".split()
    config, settings, _, _ = generator_train.parse(flags)
    assert (config.dataset, config.data_root, config.max_steps) == ("folder", "X", 1500)
    assert (config.flip, config.clips_per_video, settings["hidden_size"]) == (False, 1, 128), "nothing of `folder`"


@pytest.fixture
def parsed_generator(tmp_path):
    """Parses presets of stage two as its command does."""
    (tmp_path / "config.json").write_text("{}")  # as much of an autoencoder as parsing looks for

    def parse_generator(*presets: str) -> tuple[GeneratorConfig, dict[str, Any]]:
        arguments = [part for preset in presets for part in ("--config", preset)]
        folders = [f"--autoencoder={tmp_path}", f"--output-dir={tmp_path / 'run'}"]
        config, settings, _, _ = generator_train.parse([*arguments, *folders])
        return config, settings

    return parse_generator


def dit_parameters(layers: int, c: int, heads: int) -> int:
    """Of the recipe `ucf101` on the latents of the paper's headline setting, 101 classes."""
    hidden = 8 * -(-4 * c // 12)  # SwiGLU: two thirds of 4 C in steps of 8
    attention = (3 * c * c + 3 * c) + (c * c + c) + 2 * (c // heads)
    feed_forward = (2 * c * hidden + 2 * hidden) + (hidden * c + c)
    block = attention + feed_forward + (6 * c * c + 6 * c)
    ends = 2 * (8 * c + c) + (2 * c * c + 2 * c) + 2 * (8 * c + 8)  # tokens of both types hold 8 numbers
    embeddings = 3 * c + 102 * c + (256 * c + c) + (c * c + c)
    return layers * block + ends + embeddings


@pytest.mark.parametrize("size", DIT_SIZES)
def test_sizes_of_dit_go_on_top_of_a_recipe(parsed_generator, size):
    layers, width, heads, millions = DIT_SIZES[size]
    config, settings = parsed_generator("ucf101", size)
    with torch.device("meta"):
        model = VidTwinDiT(**settings)
    assert (model.config.num_layers, model.config.hidden_size, model.config.num_attention_heads) == (
        layers,
        width,
        heads,
    )
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == dit_parameters(layers, width, heads)
    assert count == pytest.approx(1e6 * millions, rel=0.02)
    recipe, recipe_settings = parsed_generator("ucf101")
    changed = {key for key in settings if settings[key] != recipe_settings[key]}
    assert changed <= {"hidden_size", "num_layers", "num_attention_heads"}
    # A large size takes fewer samples through a GPU at a time; the batch is that of the recipe.
    assert config.micro_batch_size <= recipe.micro_batch_size
    assert replace(config, micro_batch_size=recipe.micro_batch_size) == recipe


def test_ucf101_paper_trains_as_the_paper_does(parsed_generator):
    config, settings = parsed_generator("ucf101_paper")
    assert (settings["num_layers"], settings["hidden_size"], settings["conditioning"]) == (18, 1152, "cross_attention")
    assert (settings["class_embedding_size"], settings["positions"]) == (256, "sincos")
    assert (settings["structure_patch_size"], settings["dynamics_patch_size"]) == ((2, 1, 1), (1, 1))
    assert (settings["norm"], settings["feed_forward"], settings["qk_norm"]) == ("layer_norm", "gelu", "none")
    objective, optimizer = config.objective, config.optimizer
    assert (objective.kind, objective.label_dropout, objective.min_snr_gamma) == ("sample", 0.2, None)
    assert not objective.independent_times
    scheduler = make_scheduler(objective.kind)
    assert type(scheduler).__name__ == "DDIMScheduler" and scheduler.config.num_train_timesteps == 1000
    assert (config.sample_steps, config.sample_guidance, config.sample_guidance_interval) == (50, 5.0, (0.0, 1.0))
    assert (optimizer.name, optimizer.betas, optimizer.warmup_steps) == ("adam", (0.9, 0.999), 10_000)
    assert (config.dataset, config.second_ema_decay) == ("ucf101", None)


def test_ucf101_is_the_recommended_recipe(parsed_generator):
    config, settings = parsed_generator("ucf101")
    assert (settings["num_layers"], settings["hidden_size"], settings["conditioning"]) == (18, 1152, "adaln_zero")
    assert (settings["norm"], settings["feed_forward"]) == ("rms_norm", "swiglu")
    assert (settings["qk_norm"], settings["positions"]) == ("rms_norm", "rotary")
    objective = config.objective
    assert (objective.kind, objective.logit_mean, objective.logit_std) == ("flow", 0.0, 1.0)
    assert objective.independent_times
    assert (config.dataset, config.ema_decay, config.second_ema_decay) == ("ucf101", 0.9999, 0.999)
    low, high = config.sample_guidance_interval
    assert 0 <= low < high < 1


@pytest.mark.parametrize("name", GENERATOR_PRESETS)
def test_every_generator_preset_says_what_it_sets(parsed_generator, name):
    config, settings = parsed_generator(name)
    given = preset("generator", name)
    for key, value in given.pop("model", {}).items():
        assert settings[key] == (tuple(value) if isinstance(value, list) else value), key
    for part in ("objective", "optimizer"):
        for key, value in given.pop(part, {}).items():
            assert getattr(getattr(config, part), key) == (tuple(value) if isinstance(value, list) else value), key
    for key, value in given.items():
        found = getattr(config, key)
        assert (list(found) if isinstance(found, tuple) else found) == value, key
