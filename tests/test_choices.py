"""The comparison of stage two's choices, and of its solvers, as commands."""

import json
from typing import Any

import pytest
import torch
import yaml
from test_latent_cache import make_autoencoder

from autoencoder.common import commands
from benchmarks import choices as choices_command
from benchmarks import solvers as solvers_command
from benchmarks.choices import CHOICES, DEFAULT, ChoicesConfig
from benchmarks.work import solvers
from benchmarks.work.choices import flags
from generator.latent_cache import LatentCache
from generator.train import parse


def settings(name: str) -> dict[str, Any]:
    """The config of a variant's run, flat."""
    config = yaml.safe_load(parse([*flags(ChoicesConfig(autoencoder="model"), name, 0), "--output-dir", "run"])[3])
    flat = {key: value for key, value in config.items() if not isinstance(value, dict)}
    groups = {group: values for group, values in config.items() if isinstance(values, dict)}
    return flat | {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_one_value_of_the_config(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_autoencoder().save_pretrained("model")
    default, chosen = settings(DEFAULT), settings(name)
    changed = {key for key in chosen if chosen[key] != default.get(key)}
    assert {f"--{key}".replace("_", "-") for key in changed} <= set(CHOICES[name][::2]) and len(CHOICES[name]) in (0, 2)


def test_the_commands_train_sample_and_compare(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(CHOICES, DEFAULT, ("--model.num-layers", "1", "--model.hidden-size", "16"))
    monkeypatch.setitem(CHOICES, "flow", (*CHOICES[DEFAULT], "--objective.kind", "flow"))
    make_autoencoder().save_pretrained(tmp_path / "model")
    (tmp_path / "preset.yaml").write_text("companions: true")
    short = ["--max-steps", "2", "--max-videos", "40", "--seeds", "1", "--num-inference-steps", "2"]
    arguments = [
        *short,
        "--preset",
        str(tmp_path / "preset.yaml"),
        "--videos-per-class",
        "1",
        "--variants",
        f"{DEFAULT},flow",
        "--output-dir",
        str(tmp_path / "out"),
    ]
    choices_command.main([*arguments, "--autoencoder", str(tmp_path / "model")])
    assert LatentCache(tmp_path / "out/latents").identity["companions"]
    report = json.loads((tmp_path / "out/choices.json").read_text())
    assert [row["variant"] for row in report["rows"]] == [DEFAULT, "flow"]
    assert all(row["loss"] > 0 and 0 <= row["both"] <= row["shape"] <= 1 for row in report["rows"])
    assert all(row["seconds"] > 0 for row in report["rows"])
    printed = capfd.readouterr().out
    assert "not measured: one seed" in printed and printed.count("$ python -m generator.train") == 2

    # Runs that are there are taken over, unless one was made in another way.
    monkeypatch.setitem(CHOICES, DEFAULT, (*CHOICES[DEFAULT], "--objective.label-dropout", "0.2"))
    choices_command.main([*arguments, "--autoencoder", str(tmp_path / "model")])
    assert json.loads((tmp_path / "out/choices.json").read_text())["runs"]["flow"] == report["runs"]["flow"]
    assert capfd.readouterr().out.count("$ python -m generator.train") == 1

    folders = ",".join(str(tmp_path / "out" / f"{name}-0" / "pipeline") for name in (DEFAULT, "flow"))
    solvers_command.main(
        ["--pipelines", folders, "--steps", "2,4", "--videos-per-class", "1", "--output-dir", str(tmp_path)]
    )
    results = json.loads((tmp_path / "solvers.json").read_text())["results"]
    calls = {(row["prediction_type"], row["scheduler"], row["steps"]): row["calls"] for row in results}
    assert len(calls) == 2 * (len(solvers.DDPM_SOLVERS) + len(solvers.FLOW_SOLVERS))
    assert (calls["sample", "DDIMScheduler", 4], calls["flow", "FlowMatchHeunDiscreteScheduler", 4]) == (4, 7)
    assert (tmp_path / "solvers.png").stat().st_size > 1000


def test_variants_can_be_joined(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_autoencoder().save_pretrained("model")
    default, joined = settings(DEFAULT), settings("flow_sample+noisy_times+joint_share")
    changed = {key: value for key, value in joined.items() if value != default[key]}
    assert changed == {"objective.kind": "flow_sample", "objective.logit_mean": 0.8, "objective.joint_share": 0.75}
    assert ChoicesConfig(variants="default,flow_sample+contrastive").names == ["default", "flow_sample+contrastive"]


def test_bad_settings():
    for variants in ("dropout", "flow+dropout", "flow+dropout,default"):
        with pytest.raises(ValueError, match="variants must be of default, .*, got dropout"):
            commands.build(ChoicesConfig, vars(ChoicesConfig()) | {"variants": variants})
    with pytest.raises(ValueError, match="steps 0 must be at least 1, got 0"):
        solvers.SolversConfig(pipelines="x", steps="5,0")
