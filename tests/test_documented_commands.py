"""Every command and every flag that the documentation names is one that its program takes."""

import importlib
import re
from collections.abc import Callable
from functools import cache
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple

import pytest
from accelerate.commands.launch import launch_command_parser
from jsonargparse import Namespace
from pages import PAGES, RECORDS, ROOT, blocks, command_lines, commands_of, read, words_of
from shtab import SUPPORTED_SHELLS
from test_help import commands
from tiny_models import tiny_pipeline
from torch.distributed.run import get_args_parser
from video_files import make_video

from autoencoder.common.commands import build
from autoencoder.common.layers import config_path, flag, take_apart
from autoencoder.common.parser import CommandParser
from autoencoder.common.presets import preset_names
from autoencoder.data.listing import read_manifest
from autoencoder.train import main as train_autoencoder
from generator.train import main as train_generator
from vidtwin.command import COMMANDS

SAID_FOR = {"RANK": "0"}  # what stands for a number on a page
PROGRAMS = ("python -m ", "vidtwin ", "torchrun ", "accelerate ", "make ", "pip ")


class Command(NamedTuple):
    """A command's parser, how the command reads its arguments with it, and the class of its config."""

    parser: CommandParser
    read: Callable[[list[str]], Namespace]
    config_class: type


class Reached(Exception):
    """Ends a command when it would read its command line."""


@cache
def command(module: str) -> Command:
    """A command of the project, as it is when it would read its command line."""
    assert module in commands(), f"python -m {module} is no command"
    classes = []

    def note(self, config_class, nested_key=None, **options):
        classes.append(config_class)
        return super(CommandParser, self).add_class_arguments(config_class, nested_key, **options)

    def end(self, argv=None, *given, **named):
        raise Reached(self, lambda arguments: self.read(arguments, *given, **named))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Reached) as reached:
        patch.setattr(CommandParser, "add_class_arguments", note)
        patch.setattr(CommandParser, "read", end)
        is_package = (ROOT / module.replace(".", "/")).is_dir()
        importlib.import_module(f"{module}.__main__" if is_package else module).main([])
    return Command(*reached.value.args, classes[0])


def check_arguments(module: str, arguments: list[str], in_full: bool) -> None:
    """Build the config of a command from its arguments; if they may lack some, read the flags and presets alone."""
    parser, read_arguments, config_class = command(module)
    if in_full:
        build(config_class, parser.instantiate(read_arguments(arguments)))
    else:
        for name in take_apart(arguments, parser.names).configs:
            config_path(name, parser.stage)


def check(words: list[str], in_full: bool = True) -> None:
    """Fail unless the program takes the arguments."""
    program, *arguments = dropwhile(re.compile(r"[A-Z_]+=").match, (SAID_FOR.get(word, word) for word in words))
    match program.removeprefix(".venv/bin/"), *arguments:
        case "python", "-m", "pytest", *rest:
            assert all((ROOT / file).is_file() for file in rest if not file.startswith("-"))
        case "python", "-m", module, *rest:
            check_arguments(module, rest, in_full)
        case "vidtwin", "--print-completion", shell, ">", _:
            assert shell in SUPPORTED_SHELLS
        case "mkdir", "-p", _:
            pass
        case "vidtwin", name, *rest:
            check_arguments(COMMANDS[name][0], rest, in_full)
        case "torchrun", *rest:
            launched = get_args_parser().parse_args(rest)
            check_arguments(launched.training_script, launched.training_script_args, in_full)
        case "accelerate", "launch", *rest:
            launched = launch_command_parser().parse_args(rest)
            assert (ROOT / launched.config_file).is_file()
            check_arguments(launched.training_script, launched.training_script_args, in_full)
        case "make", target:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
        case "pip", "install", "-e", what:
            extra = re.fullmatch(r"\.(?:\[(\w+)\])?", what)[1]
            assert extra is None or f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
        case _:
            pytest.fail(f"nothing here knows the program of: {' '.join(words)}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with the models that commands go on from."""
    folder, pipe = tmp_path_factory.mktemp("trained"), tiny_pipeline()
    pipe.save_pretrained(folder / "outputs/generator/run-001/pipeline")
    for number in (1, 2):
        pipe.vae.save_pretrained(folder / f"outputs/autoencoder/run-{number:03d}/model")
    return folder


@pytest.mark.parametrize("page", PAGES + RECORDS)
def test_every_command_of_a_block_is_taken(page, trained, monkeypatch):
    monkeypatch.chdir(trained)
    for block in blocks(read(page), "bash"):
        for words in command_lines(block):
            check(words)


def test_no_command_is_in_a_block_that_is_not_looked_at():
    languages = {name for page in PAGES + RECORDS for name in re.findall(r"^```(\w+)$", read(page), re.MULTILINE)}
    assert languages <= {"bash", "python", "csv"}


@pytest.mark.parametrize("page", PAGES + RECORDS)
def test_every_command_between_backticks_is_taken(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in words_of(page):
        if text.startswith(PROGRAMS):
            (words,) = command_lines(text)
            check(words, in_full=False)


def test_every_flag_between_backticks_is_one_of_some_command():
    known = {"--help"}
    for name in commands():
        names = command(name).parser.names
        known |= {flag(key) for key in [*names.settings, *names.groups, *names.repeated, "config"]}
    flags = [text.split() for page in PAGES + RECORDS for text in words_of(page) if text.startswith("--")]
    named = {word.removesuffix(".*") for words in flags for word in words if word.startswith("--")}
    assert len(named) > 50 and named <= known, sorted(named - known)


@pytest.mark.parametrize(
    "words, error",
    [
        ("python -m autoencoder.train --max-stps 3", SystemExit),
        ("python -m autoencoder.train --config tinny", SystemExit),
        ("python -m pipelines.sample --pipeline shapes --out x", SystemExit),
        ("vidtwin sampel", KeyError),
        ("python -m autoencoder.trian", AssertionError),
        ("make tea", AssertionError),
        ("torchrun --nprocs-per-node 8 -m autoencoder.train", SystemExit),
    ],
)
def test_a_wrong_command_would_be_seen(words, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        check(words.split())


def test_every_preset_is_told_of():
    told = set(words_of("docs/training.md"))
    for stage in ("autoencoder", "generator"):
        assert set(preset_names(stage)) <= told, sorted(set(preset_names(stage)) - told)


def test_the_example_of_a_manifest_is_one(tmp_path):
    (example,) = (block for block in blocks(read("docs/data.md"), "csv"))
    (tmp_path / "videos.csv").write_text(example)
    listing = read_manifest(tmp_path / "videos.csv")
    assert len(listing.paths) == 2 and listing.class_names == ("run", "walk") and len(listing.content_names) == 1


def test_videos_and_no_gpu_are_enough_for_both_stages(tmp_path, monkeypatch):
    """The first row of the README's table, for fewer steps."""
    (row,) = (line for line in read("README.md").splitlines() if line.startswith("| videos and no GPU"))
    lines = [words for text in re.findall(r"`(python [^`]+)`", row) for words in command_lines(text)]
    assert [words[2] for words in lines] == ["autoencoder.train", "generator.train"]
    for name in ("walk/a.mp4", "walk/b.mp4", "run/c.mp4"):
        make_video(tmp_path / "my_videos" / name)
    monkeypatch.chdir(tmp_path)
    train_autoencoder([*lines[0][3:], "--max-steps", "2", "--num-workers", "0", "--accelerator", "cpu"])
    train_generator([*lines[1][3:], "--max-steps", "2", "--sample-steps", "2"])
    assert (tmp_path / "outputs/generator/run-001/pipeline/model_index.json").is_file()


def test_the_first_training_of_the_readme_would_run(tmp_path, monkeypatch, capfd):
    """It needs no data: a dry run takes a step of it and leaves nothing."""
    monkeypatch.chdir(tmp_path)
    (module, arguments), *_ = commands_of("README.md", "Train", "circle_horizontal")
    assert module == "autoencoder.train"
    train_autoencoder([*arguments, "--dry-run", "--accelerator", "cpu"])
    assert "data      shapes, " in capfd.readouterr().out and not list(tmp_path.iterdir())
