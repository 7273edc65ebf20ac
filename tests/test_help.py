"""What --help of every command needs, and says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("autoencoder", "generator", "pipelines", "benchmarks")
HEAVY = ("torch", "diffusers", "lightning", "accelerate", "decord", "matplotlib", "torchvision", "av", "timm", "gradio")


def commands() -> list[str]:
    """All modules that are run by `python -m`."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    names = [str(path.relative_to(ROOT))[:-3].replace("/", ".") for path in files if _is_command(path)]
    return [name.removesuffix(".__main__") for name in names]


def _is_command(path: Path) -> bool:
    return 'if __name__ == "__main__":' in path.read_text()


# Runs the commands one after the other as `python -m` does; a module that stays imported is found at the first of them.
SCRIPT = """
import contextlib, io, json, runpy, sys
found = {}
for name in sys.argv[2:]:
    sys.argv = ["-m", "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    found[name] = [out.getvalue(), [heavy for heavy in HEAVY if heavy in sys.modules]]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[str, list[str]]]:
    script = f"HEAVY = {HEAVY}\n{SCRIPT}"
    done = subprocess.run(
        [sys.executable, "-c", script, "-", *commands()], capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(done.stdout)


def test_all_commands_are_found():
    assert {"autoencoder.train", "autoencoder.data.ucf101", "pipelines.sample", "benchmarks.solvers"} < set(commands())
    assert len(commands()) >= 24


@pytest.mark.parametrize("name", commands())
def test_help_imports_nothing_heavy_and_speaks_the_readmes_language(helps, name):
    text, heavy = helps[name]
    assert heavy == []
    assert text.startswith(f"usage: python -m {name} ")
    assert "PAPER.md" not in text and ".py" not in text
    flags = re.findall(r"--[\w.-]+", text)
    assert "--help" in flags and not [flag for flag in flags if "_" in flag and "config_file" not in flag]
    assert not [line for line in text.splitlines() if re.match(r"  --\S+$", line) and "(default" not in text]


def test_help_shows_the_defaults_of_the_default_preset_and_lists_the_presets(helps):
    text = " ".join(helps["autoencoder.train"][0].split())
    assert "--max-steps N Optimiser steps of the whole run. (default: 2500)" in text
    assert "--model.hidden-size N Width of the backbone. (default: 96)" in text
    assert "base The paper's base model" in text and "setting2 The paper's second latent setting" in text
    text = " ".join(helps["generator.train"][0].split())
    assert "(default: 1500)" in text and "ucf101_paper The paper's recipe for UCF-101" in text


@pytest.mark.parametrize(
    "flags, steps", [("--config base", 500_000), ("--config base --max-steps 7", 500_000), ("--resume", 2500)]
)
def test_help_follows_the_presets_on_the_line(flags, steps, capsys, monkeypatch, tmp_path):
    from autoencoder.train import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main([*flags.split(), "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0 and f"Optimiser steps of the whole run. (default: {steps})" in text
    assert not list(tmp_path.iterdir())


def test_help_of_sampling_shows_class(helps):
    text, _ = helps["pipelines.sample"]
    assert re.search(r"^  --class CLASS", text, re.M) and "--classes" not in text
