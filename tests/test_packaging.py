"""What is installed: the packages, their presets, and the command `vidtwin`."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from tiny_models import tiny_pipeline

import autoencoder.metrics
import generator
import pipelines
import vidtwin
from autoencoder.common.presets import PRESETS
from vidtwin.command import COMMANDS, main

ROOT = Path(__file__).parents[1]
INSTALLED = ("autoencoder", "generator", "pipelines", "vidtwin")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the repository with one more shipped pipeline, built without the network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*INSTALLED, "benchmarks", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    tiny_pipeline().save_pretrained(source / "pipelines/shipped/tiny")
    script = f"from setuptools import build_meta; print(build_meta.build_wheel({str(out)!r}))"
    subprocess.run([sys.executable, "-c", script], cwd=source, check=True, capture_output=True, timeout=120)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_all_packages_and_presets_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"vidtwin-{version('vidtwin')}.dist-info"
    assert {name.split("/")[0] for name in names} == {*INSTALLED, info}
    for package in INSTALLED:
        files = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        assert files <= names and f"{package}/py.typed" in names
    presets = {f"vidtwin/configs/{path.relative_to(PRESETS)}" for path in PRESETS.rglob("*.yaml")}
    assert presets <= names and "vidtwin/configs/accelerate/fsdp2.yaml" in presets


def test_an_installed_wheel_finds_its_presets_beside_folders_of_the_same_names(wheel, tmp_path):
    site, here = tmp_path / "site", tmp_path / "here"
    zipfile.ZipFile(wheel).extractall(site)
    for name in ("configs", "benchmarks"):
        (here / name / "autoencoder").mkdir(parents=True)
        (here / name / "__init__.py").write_text("raise RuntimeError('somebody else')")
        (here / name / "autoencoder" / "tiny.yaml").write_text("nonsense: 1\n")
    script = (
        "import vidtwin; from autoencoder.common.presets import preset_path; print(preset_path('autoencoder', 'tiny'))"
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    run = {"cwd": here, "env": environment, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run([sys.executable, "-c", script], **run)
    assert done.stdout.strip() == str(site / "vidtwin/configs/autoencoder/tiny.yaml"), done.stderr
    assert yaml.safe_load(Path(done.stdout.strip()).read_text())["max_steps"] > 1
    done = subprocess.run([sys.executable, "-m", "vidtwin", "train-autoencoder", "--config", "tiny", "--help"], **run)
    assert done.returncode == 0 and "(default: 2500)" in done.stdout, done.stderr


def test_an_installed_wheel_holds_the_shipped_pipelines(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = (
        "from pipelines import VidTwinDiffusionPipeline, pretrained; folder = pretrained('tiny'); print(folder);"
        "VidTwinDiffusionPipeline.from_pretrained(folder)(0, num_inference_steps=1)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run([sys.executable, "-c", script], **run)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "site/pipelines/shipped/tiny"
    assert done.stdout.strip() == str(folder) and (folder / "README.md").is_file()
    shipped = ROOT / "pipelines" / "shipped"
    files = {str(path.relative_to(ROOT)) for path in shipped.rglob("*") if path.is_file()}
    assert files <= set(zipfile.ZipFile(wheel).namelist())


def test_public_names_and_version():
    assert vidtwin.__version__ == version("vidtwin")
    for name in vidtwin.__all__:
        assert getattr(vidtwin, name).__class__ is not None and name in dir(vidtwin)
    for package in (autoencoder, autoencoder.metrics, generator, pipelines):
        assert set(package.__all__) <= set(vidtwin.__all__), package.__name__
    from autoencoder import AutoencoderVidTwin
    from pipelines import VidTwinDiffusionPipeline

    assert vidtwin.AutoencoderVidTwin is AutoencoderVidTwin
    assert vidtwin.VidTwinDiffusionPipeline is VidTwinDiffusionPipeline
    with pytest.raises(AttributeError, match="module 'vidtwin' has no attribute 'VidTwin'"):
        _ = vidtwin.VidTwin


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["title"], cited["version"]) == ("VidTwin Diffusion", version("vidtwin"))
    (paper,) = cited["references"]
    assert "2412.17726" in paper["url"] and len(paper["authors"]) == 6
    assert f"## [{cited['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_command_of_the_packages_has_a_name():
    files = [path for package in INSTALLED[:3] for path in (ROOT / package).rglob("*.py")]
    modules = {str(path.relative_to(ROOT))[:-3].replace("/", ".") for path in files if "__main__" in path.read_text()}
    assert {module for module, _ in COMMANDS.values()} == {name.removesuffix(".__main__") for name in modules}


@pytest.fixture(scope="module")
def bash_completion(tmp_path_factory):
    """The script for bash, made in a process that may not import torch."""
    code = (
        "import sys; from vidtwin.command import main; main(['--print-completion', 'bash']); "
        "sys.exit(sorted({'torch', 'diffusers', 'lightning', 'av'} & {*sys.modules}) or 0)"
    )
    path = tmp_path_factory.mktemp("completion") / "vidtwin.bash"
    path.write_bytes(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout)
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    "line, expected",
    [
        ("vidtwin tra", ["train-autoencoder", "train-generator"]),
        ("vidtwin --v", ["--version"]),
        ("vidtwin sample --num", ["--num-videos", "--num-inference-steps", "--num-frames"]),
        ("vidtwin sample --cl", ["--class", "--clip-fps", "--clip-start"]),
        ("vidtwin sample --upscale ", ["nearest", "bicubic", "none"]),
        ("vidtwin sample --upscale none --grid ", ["true", "false"]),
        ("vidtwin train-autoencoder --optimizer.l", ["--optimizer.learning-rate"]),
        ("vidtwin train-generator --config shapes_lon", ["shapes_long"]),
        ("vidtwin decode pyp", ["pyproject.toml"]),
        ("vidtwin sample --structure pyp", ["pyproject.toml"]),
    ],
)
def test_bash_completes_commands_flags_and_values(bash_completion, line, expected):
    script = (
        'source "$1"; COMP_LINE=$2; COMP_POINT=${#2}; read -ra COMP_WORDS <<< "$2"; '
        '[[ $2 == *" " ]] && COMP_WORDS+=(""); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); '
        '_shtab_vidtwin vidtwin "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"; printf "%s\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script, "-", bash_completion, line], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == expected


def test_the_command_lists_runs_and_corrects(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv[:])
    main([])
    listed = capsys.readouterr().out
    assert all(name in listed and module in listed for name, (module, _) in COMMANDS.items())
    main(["--version"])
    assert capsys.readouterr().out.strip() == version("vidtwin")
    with pytest.raises(SystemExit) as caught:
        main(["sampel", "--out", "x"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: there is no command 'sampel': did you mean sample?\n"
    with pytest.raises(SystemExit):
        main(["xyz"])
    assert capsys.readouterr().err == "error: there is no command 'xyz'; vidtwin --help lists all\n"
    with pytest.raises(SystemExit) as caught:
        main(["sample", "--pipelin", "x"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: there is no --pipelin: did you mean --pipeline?\n"


@pytest.mark.parametrize("flags", [["--print-completion", "bash"], ["--help"]])
def test_a_reader_that_has_had_enough_is_no_error_and_a_full_disk_one_line(flags):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "vidtwin", *flags]
    with open(write, "w") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")


def test_completion_is_of_shells_that_are_known(capsys):
    main(["--print-completion", "zsh"])
    assert capsys.readouterr().out.startswith("#compdef vidtwin")
    with pytest.raises(SystemExit, match="error: --print-completion takes bash, zsh, .*, got 'csh'"):
        main(["--print-completion", "csh"])
