"""How command lines become arguments of the parser."""

from dataclasses import dataclass

import pytest

from autoencoder.common import commands

PRESET = str(commands.PRESETS / "autoencoder" / "tiny.yaml")


@pytest.mark.parametrize(
    "given, expected",
    [
        (["--max-steps", "3"], ["--max_steps", "3"]),
        (["--max-steps=3"], ["--max_steps=3"]),
        (["--model.hidden-size=8"], ["--model.hidden_size=8"]),
        (["--data-root", "my-videos"], ["--data_root", "my-videos"]),
        (["--data-root=my-videos/a-b"], ["--data_root=my-videos/a-b"]),
        (["--optimizer.learning-rate=1e-3"], ["--optimizer.learning_rate=1e-3"]),
        (["--resume"], ["--resume=true"]),
        (["--resume", "--seed", "1"], ["--resume=true", "--seed", "1"]),
        (["--resume=false"], ["--resume=false"]),
        (["--output-dir", "resume"], ["--output_dir", "resume"]),
        (["--output-dir", "resume", "--seed=1"], ["--output_dir", "resume", "--seed=1"]),
        (["--config", "tiny"], ["--config", PRESET]),
        (["--config=tiny"], [f"--config={PRESET}"]),
        (["--config", "tiny", "--config", "tiny"], ["--config", PRESET, "--config", PRESET]),
        ([], []),
    ],
)
def test_normalized(given, expected):
    assert commands.normalized(given, "autoencoder", bare_flags=("resume",)) == expected


def test_a_file_comes_before_a_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_text("seed: 1\n")
    assert commands.normalized(["--config", "tiny"], "autoencoder") == ["--config", "tiny"]


def test_normalized_reads_the_command_line(monkeypatch):
    monkeypatch.setattr(commands.sys, "argv", ["train.py", "--max-steps", "3"])
    assert commands.normalized(None) == ["--max_steps", "3"]


@pytest.mark.parametrize("arguments", [["--config", "tinny"], ["--config=tinny"]])
def test_an_unknown_preset_names_those_there_are(arguments):
    with pytest.raises(ValueError, match="no preset 'tinny' for the autoencoder: there are base, convolution,.*tiny"):
        commands.normalized(arguments, "autoencoder")


def test_flag_value():
    arguments = ["--seed", "1", "--output_dir=a=b", "--resume"]
    assert commands.flag_value(arguments, "seed") == "1"
    assert commands.flag_value(arguments, "output_dir") == "a=b"
    assert commands.flag_value(arguments, "resume") is None
    assert commands.flag_value(arguments, "out") is None


@dataclass
class Example:
    """An example."""

    width: int = 3
    """Width of it, in pixels."""
    root: str | None = None
    """Where it lies."""


class Part:
    """A part.

    Args:
        height: of it, in metres.
    """

    def __init__(self, height: float = 2.0):
        self.height = height


def test_parser_builds_what_the_file_and_the_flags_say(tmp_path, capsys):
    (tmp_path / "example.yaml").write_text("width: 5\nroot: here\npart:\n  height: 4\n")
    parser = commands.make_parser(Example, "Do it.", {"part": Part})
    built = parser.instantiate(parser.parse_args(["--config", str(tmp_path / "example.yaml"), "--width=7"]))
    assert commands.build(Example, built) == Example(width=7, root="here")
    assert built.part.height == 4.0
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = capsys.readouterr().out
    assert "Width of it, in pixels." in text and "of it, in metres." in text
