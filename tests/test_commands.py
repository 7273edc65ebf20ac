"""What a command line and its files say: layers, their order, and one line for what does not fit."""

import inspect
import os
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Literal

import pytest

from autoencoder import AutoencoderVidTwin
from autoencoder.common import commands
from autoencoder.common.errors import UserError
from autoencoder.settings import AutoencoderSettings
from generator import VidTwinDiT
from generator.settings import TransformerSettings
from pipelines import sample


@dataclass
class Part:
    """A part."""

    height: float = 2.0
    """Height of it, in metres."""
    axes: tuple[float, float] = (0.5, 0.5)
    """Both axes."""


@dataclass
class Example:
    """An example."""

    max_steps: int = 3
    """Steps of it."""
    data_root: str | None = None
    """Where it lies."""
    resume: bool = False
    """Go on."""
    kind: Literal["thin", "thick"] = "thin"
    """Kind of it."""
    classes: list[str] = field(default_factory=list)
    """Names of it."""
    rate: float | None = 8.0
    """Rate of it."""
    part: Part = field(default_factory=Part)
    """Part of it."""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text("max_steps: 5\nrate: null\npart:\n  height: 4\nclasses: [a]\n")
    Path("two.yaml").write_text("max_steps: 6\nresume: true\n")
    Path("base.yaml").write_text("max_steps: 1\nkind: thick\ndata_root: here\n")
    return tmp_path


def make_parser(positional: bool = False):
    parser = commands.make_parser(Example, "Do it.", "package.do", repeated={"class": "classes"})
    if positional:
        parser.add_argument("input", type=Path)
    return parser


def read(*arguments: str, base: str | None = None) -> Example:
    parser = make_parser()
    settings = parser.read(arguments, base and (lambda asked: Path(base)))
    return commands.build(Example, parser.instantiate(settings))


@pytest.mark.parametrize(
    "arguments",
    [
        "--max-steps 7 --config one.yaml",
        "--config one.yaml --max-steps 7",
        "--max_steps=7 --config=one.yaml",
        "--max-steps 7 --config one.yaml --config two.yaml",
        "--config two.yaml --max-steps=7 --config one.yaml",
        "--max-steps 1 --config one.yaml --max-steps 7",
    ],
)
def test_a_flag_wins_wherever_it_stands(files, arguments):
    assert read(*arguments.split()).max_steps == 7


def test_nested_flags_win_too_and_leave_the_rest(files):
    assert read("--part.height", "9", "--config", "one.yaml").part == Part(height=9.0)
    assert read("--part.axes=[0.1, 0.2]", "--config", "one.yaml").part == Part(4.0, (0.1, 0.2))
    assert read("--part", "{height: 1, axes: [0, 1]}", "--part.height=3", "--config=one.yaml").part == Part(
        3.0, (0.0, 1.0)
    )


def test_the_later_file_wins_and_the_base_lies_under_all(files):
    assert read("--config", "one.yaml", "--config", "two.yaml").max_steps == 6
    assert read("--config", "two.yaml", "--config", "one.yaml").max_steps == 5
    config = read("--config", "one.yaml", "--kind=thin", base="base.yaml")
    assert (config.max_steps, config.kind, config.data_root, config.rate) == (5, "thin", "here", None)


def test_the_base_is_chosen_by_files_and_flags_alike(files):
    seen = []
    for arguments in (["--config", "two.yaml"], ["--resume", "--max-steps=6"]):
        make_parser().read(arguments, lambda asked: seen.append(asked))
    assert [(asked.max_steps, asked.resume, asked.data_root) for asked in seen] == [(6, True, None)] * 2


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("--resume", True),
        ("--resume --max-steps 7", True),
        ("--max-steps 7 --resume", True),
        ("--resume True", True),
        ("--resume=false", False),
        ("--resume false", False),
        ("--resume --resume=false", False),
        ("--resume=false --resume", True),
        ("--resume false --config two.yaml", False),
        ("--config two.yaml", True),
        ("", False),
    ],
)
def test_every_way_to_set_a_switch(files, arguments, expected):
    assert read(*arguments.split()).resume is expected


def test_a_switch_does_not_take_the_path_that_follows_it(files):
    parser = make_parser(positional=True)
    assert parser.read(["--resume", "in.mp4"]).input == Path("in.mp4")
    settings = parser.read(["in.mp4", "--resume", "no"])
    assert settings.input == Path("in.mp4") and not settings.resume
    assert parser.read(["--resume", "--", "--odd.mp4"]).input == Path("--odd.mp4")


def test_a_repeated_flag_makes_a_list_in_place_of_the_files(files):
    assert read("--config", "one.yaml").classes == ["a"]
    assert read("--class", "b", "--config", "one.yaml", "--class=3").classes == ["b", "3"]
    assert read("--classes", '["b", "null"]', "--config", "one.yaml").classes == ["b", "null"]


def test_names_may_have_commas_between_them(files):
    assert read("--classes", "Bench Press,b").classes == ["Bench Press", "b"]
    assert read("--classes=1, null").classes == ["1", "null"]
    assert read("--classes", '["a, b", c]').classes == ["a, b", "c"]
    Path("names.yaml").write_text("classes: a,b\n")
    assert read("--config", "names.yaml").classes == ["a", "b"]
    with pytest.raises(SystemExit):
        read("--classes", "[1, 2]")


def test_values_keep_what_they_are(files):
    Path("odd.yaml").write_text('data-root: "2024"\nrate: 1e-4\npart: {axes: [1e-5, 1]}\n')
    config = read("--config", "odd.yaml")
    assert (config.data_root, config.rate, config.part.axes) == ("2024", 1e-4, (1e-5, 1.0))
    assert read("--data-root", "a=b, {c}").data_root == "a=b, {c}"
    assert read("--data-root=null").data_root is None
    assert read("--rate", "-1").rate == -1
    Path("empty.yaml").write_text("")
    assert read("--config", "empty.yaml") == Example()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--max-stps 7", "there is no --max-stps: did you mean --max-steps?"),
        ("--part.hieght=7", "there is no --part.hieght: did you mean --part.height?"),
        ("--halp", "there is no --halp: did you mean --help?"),
        ("-resume", "there is no -resume: did you mean --resume?"),
        ("--zzzzqqq", "there is no --zzzzqqq"),
        ("--max-steps", "--max-steps needs a value"),
        ("--data-root --resume", "--data-root needs a value"),
        ("--max-steps abc", "--max-steps must be a whole number, got 'abc'"),
        ("--max-steps null", "--max-steps must be a whole number, got 'null'"),
        ("--max-steps 1.5 --config one.yaml", "--max-steps must be a whole number, got '1.5'"),
        ("--resume maybe", "--resume must be true or false, got 'maybe'"),
        ("--kind fat", "--kind must be one of thin, thick, got 'fat'"),
        ("--rate x", "--rate must be a number or null, got 'x'"),
        ("--rate .nan", "--rate must be finite, got nan"),
        ("--part.axes=[1,.inf]", "--part.axes must be finite, got (1.0, inf)"),
        ("--part.axes=[1]", "--part.axes must be a list of 2, each a number, such as [1, 1], got '[1]'"),
        ("--part.height null", "--part.height must be a number, got 'null'"),
        ("--part 3", "--part must hold settings by name, got '3'"),
        ("--data-root=", "--data-root is empty"),
        ("--class=", "--class is empty"),
        ("--config=", "--config is empty"),
        ("stray", "'stray' is neither a flag nor the value of one"),
        ("--config nowhere.yaml", "--config nowhere.yaml: there is no such file"),
        ("--config .", "--config . is a folder; a YAML file is wanted"),
    ],
)
def test_what_does_not_fit_is_one_line(files, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        read(*arguments.split())
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize(
    "content, message",
    [
        ("max_steps: null", "bad.yaml: max_steps must be a whole number, got 'null'"),
        ("max_stps: 3", "bad.yaml: there is no setting max_stps: did you mean max_steps?"),
        ("part:\n  hight: 3", "bad.yaml: there is no setting part.hight: did you mean part.height?"),
        ("part: 3", "bad.yaml: part must hold settings by name, got '3'"),
        ("part: {height: thick}", "bad.yaml: part.height must be a number, got 'thick'"),
        ("max_steps: 3\n\trate: 1", "bad.yaml, line 2: found character '\\t' that cannot start any token"),
        ("- max_steps", "bad.yaml must hold settings by name, got \"['max_steps']\""),
        ('data_root: "a\\0b"', "bad.yaml: data_root: 'a\\x00b' holds a NUL character, which no name can have"),
        ('data_root: ""', "bad.yaml: data_root is empty"),
        ("rate: .inf", "bad.yaml: rate must be finite, got inf"),
        (
            "max_steps: \x01",
            "bad.yaml is no YAML file: unacceptable character #x0001: special characters are not allowed",
        ),
    ],
)
def test_what_does_not_fit_in_a_file_names_the_file(files, capsys, content, message):
    Path("bad.yaml").write_text(content)
    with pytest.raises(SystemExit):
        read("--config", "one.yaml", "--config", "bad.yaml")
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_file_that_is_no_text_is_named(files, capsys):
    Path("bad.yaml").write_bytes(b"\xff\xfe\x80\x81")
    with pytest.raises(SystemExit):
        read("--config", "bad.yaml")
    assert capsys.readouterr().err.startswith("error: bad.yaml is no YAML file: ")


def test_help_shows_what_would_be_in_force(files, capsys):
    with pytest.raises(SystemExit) as caught:
        make_parser().read(["--config", "one.yaml", "--help"], lambda asked: Path("base.yaml"))
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    assert text.startswith("usage: python -m package.do [--config NAME] [--setting value] ... Do it.")
    assert "--max-steps N Steps of it. (default: 5)" in text
    assert "--data-root TEXT Where it lies. (default: here)" in text
    assert "--kind {thin,thick} Kind of it. (default: thick)" in text
    assert "--class CLASS Names of it. (default: [a])" in text
    assert "--rate X Rate of it. (default: null)" in text
    assert "--part.axes [...] Both axes. (default: [0.5, 0.5])" in text and "--part CONFIG" not in text


@dataclass
class Output:
    """What is written."""

    output_dir: Path = Path("new/folder")
    """Folder of it."""


@pytest.mark.parametrize("given", ["one.yaml", "one.yaml/below", "one.yaml/far/below"])
def test_a_file_in_the_way_of_a_folder_is_one_line_before_any_work(files, capsys, given):
    parser = commands.make_parser(Output, "Do it.")
    with pytest.raises(SystemExit):
        parser.read(["--output-dir", given])
    error = capsys.readouterr().err
    assert error == "error: --output-dir must be a folder, or be made one, but one.yaml is a file\n"
    assert parser.read(["--output-dir", "."]).output_dir == Path()
    assert parser.read([]).output_dir == Path("new/folder") and not Path("new").exists()


@pytest.mark.parametrize("given, locked", [("there", "there"), ("there/new/folder", "there"), ("new", ".")])
def test_a_folder_that_may_not_be_written_to_is_one_line_before_any_work(files, capsys, monkeypatch, given, locked):
    Path("there").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(SystemExit):
        commands.make_parser(Output, "Do it.").read(["--output-dir", given])
    error = capsys.readouterr().err
    assert error == f"error: --output-dir must be a folder that may be written to, and {locked} may not\n"
    assert not list(Path("there").iterdir()) and not Path("new").exists()


@dataclass
class Written:
    """What is written."""

    output: Path = Path("new/folder/found.json")
    """Figures."""
    sheet: Path | None = None
    """Picture."""


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--sheet", "."], "--sheet must be a file, but . is a folder"),
        (["--output", "one.yaml/found.json"], "--output must be a file in a folder, but one.yaml is a file"),
    ],
)
def test_a_folder_in_the_way_of_a_file_is_one_line_before_any_work(files, capsys, flags, message):
    parser = commands.make_parser(Written, "Do it.")
    with pytest.raises(SystemExit):
        parser.read(flags)
    assert capsys.readouterr().err == f"error: {message}\n"
    assert parser.read(["--sheet", "one.yaml"]).sheet == Path("one.yaml") and not Path("new").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--fps 0", "fps and clip_fps must be positive, got 0.0 and 8.0"),
        ("--clip-fps -1", "fps and clip_fps must be positive, got 8.0 and -1.0"),
        ("--fps 0.001", "fps=0.001: videos have 0.01 to 1000 frames per second"),
        ("--fps 1e6", "fps=1000000.0: videos have 0.01 to 1000 frames per second"),
        ("--clip-start -1", "clip_start must be a second from 0 on, got -1.0"),
        ("--num-videos 0", "num_videos must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused_before_the_pipeline_is_looked_for(files, flags, message):
    with pytest.raises(UserError, match=message):
        sample.main(["--pipeline", "nowhere", "--class", "a", "--out", "x", *flags.split()])


def test_presets_are_files_of_a_name(files, capsys):
    parser = commands.make_parser(Example, "Do it.", stage="autoencoder")
    for name, hint in (("tinny", "did you mean tiny?"), ("zzzz", "there are base, clips64, clips64_short")):
        with pytest.raises(SystemExit):
            parser.read(["--config", name])
        line = capsys.readouterr().err
        assert f"no preset '{name}' for the autoencoder" in line and hint in line and line.count("\n") == 1
    Path("tiny").write_text("max_steps: 9\n")
    assert parser.read(["--config", "tiny"]).max_steps == 9, "a file of one's own comes first"


@pytest.mark.parametrize(
    "settings, model", [(AutoencoderSettings, AutoencoderVidTwin), (TransformerSettings, VidTwinDiT)]
)
def test_settings_mirror_the_models_arguments(settings, model):
    parameters = inspect.signature(model.__init__).parameters
    derived = {"structure_shape", "dynamics_shape", "dynamics_axes", "num_classes", "id2label", "prediction_type"}
    derived |= {
        "independent_times",
        "frame_times",
        "structure_mean",
        "structure_std",
        "dynamics_mean",
        "dynamics_std",
        "self",
    }
    assert {each.name for each in fields(settings)} == set(parameters) - derived
    for each in fields(settings):
        assert each.default is not MISSING and each.default == parameters[each.name].default, each.name
