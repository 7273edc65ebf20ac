"""The folder of a run and the pointer to the last model."""

import os
from pathlib import Path

import pytest
from test_locks import Other

from autoencoder.common.config import RunConfig
from autoencoder.common.errors import ExistingFileError, MissingFileError, UserError
from autoencoder.common.locks import FolderInUseError
from autoencoder.common.run import RunFolder, read_pointer, write_pointer


def start(folder: RunFolder) -> RunFolder:
    """As a command starts a run."""
    folder.claim()
    with folder.held("seed: 0\n", resume=False):
        return folder


def test_a_new_run_gets_the_next_number(tmp_path):
    assert start(RunFolder.choose(tmp_path, None, resume=False)).path == tmp_path / "run-001"
    assert start(RunFolder.choose(tmp_path, None, resume=False)).path == tmp_path / "run-002"
    (tmp_path / "run-009").mkdir()
    (tmp_path / "run-old").mkdir()
    assert RunFolder.choose(tmp_path, None, resume=False).path == tmp_path / "run-010"
    assert not (tmp_path / "run-010").exists(), "choosing writes nothing"


def test_starts_at_once_get_a_number_each(tmp_path):
    starts = [RunFolder.choose(tmp_path / "new", None, resume=False) for _ in range(3)]
    assert {folder.path.name for folder in starts} == {"run-001"}
    for folder in starts:
        folder.claim()
        folder.claim()
    assert [folder.path.name for folder in starts] == ["run-001", "run-002", "run-003"]
    assert starts[2].config == tmp_path / "new/run-003/config.yaml"


def test_processes_started_later_take_the_same_folder(tmp_path, monkeypatch):
    start(RunFolder.choose(tmp_path, None, resume=False))
    monkeypatch.setattr(os, "getppid", os.getpid)  # as in a process that this one has started
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert RunFolder.choose(tmp_path, None, resume=False).path == tmp_path / "run-001"
    assert RunFolder.choose(tmp_path, None, resume=True).path == tmp_path / "run-001"


def test_resume_takes_the_newest_run(tmp_path):
    for number in (2, 10, 9):
        start(RunFolder(tmp_path / f"run-{number:03d}"))
    (tmp_path / "run-011").mkdir()  # of a start that came to nothing
    assert RunFolder.choose(tmp_path, None, resume=True).path == tmp_path / "run-010"


def test_nothing_to_resume_names_the_runs_there_are(tmp_path):
    runs = tmp_path / "outputs"
    for output_dir in (None, "mistyped"):
        with pytest.raises(MissingFileError, match=f"nothing to resume in {output_dir or runs}$"):
            RunFolder.choose(runs, output_dir, resume=True)
    start(RunFolder(runs / "run-001"))
    start(RunFolder(tmp_path / "elsewhere" / "mine"))
    (runs / "empty").mkdir()
    for folder in (runs / "empty", runs / "run-01"):
        with pytest.raises(MissingFileError, match=f"nothing to resume in {folder}; the runs there are: .*run-001$"):
            RunFolder.choose(runs, str(folder), resume=True)
    with pytest.raises(MissingFileError, match=r"the runs there are: (?=.*elsewhere/mine)(?=.*run-001)"):
        RunFolder.choose(runs, str(tmp_path / "elsewhere" / "mien"), resume=True)
    (runs / "empty" / "checkpoints").mkdir()
    (runs / "empty" / "checkpoints" / "step-00000003").touch()
    with pytest.raises(MissingFileError, match="it holds checkpoints, but no config.yaml"):
        RunFolder.choose(runs, str(runs / "empty"), resume=True)


def test_a_given_folder_is_not_overwritten(tmp_path):
    folder = start(RunFolder.choose(tmp_path, str(tmp_path / "mine"), resume=False))
    assert folder.path == tmp_path / "mine"
    with pytest.raises(ExistingFileError, match=r"mine holds a run already.*--resume"):
        RunFolder.choose(tmp_path, str(folder.path), resume=False)
    assert RunFolder.choose(tmp_path, str(folder.path), resume=True).path == folder.path
    folder.config.unlink()
    folder.checkpoints.mkdir()
    folder.checkpoint_path(3).touch()
    with pytest.raises(ExistingFileError, match="holds a run already"):
        RunFolder.choose(tmp_path, str(folder.path), resume=False)


def test_a_run_that_came_there_since_is_not_overwritten(tmp_path):
    late = RunFolder.choose(tmp_path, str(tmp_path / "mine"), resume=False)
    start(RunFolder(tmp_path / "mine"))
    with pytest.raises(ExistingFileError, match="holds a run already"), late.held("seed: 1\n", resume=False):
        pass
    assert late.config.read_text() == "seed: 0\n"


def test_a_folder_in_use_is_refused_and_stays_as_it_is(tmp_path):
    folder = start(RunFolder(tmp_path / "mine"))
    other = Other(folder.path)
    try:
        for resume in (False, True):
            with pytest.raises(FolderInUseError, match="in use by process"), folder.held("seed: 1\n", resume):
                pass
    finally:
        other.end()
    assert folder.config.read_text() == "seed: 0\n"
    with folder.held("seed: 1\n", resume=True):
        assert folder.config.read_text() == "seed: 1\n"


@pytest.mark.parametrize("written, resume, stays", [(None, False, False), ("note", False, True), (None, True, True)])
def test_a_run_that_never_began_leaves_nothing(tmp_path, written, resume, stays):
    folder = RunFolder(tmp_path / "mine")
    with pytest.raises(UserError, match="no videos"), folder.held("seed: 0\n", resume):
        if written:
            (folder.path / written).touch()
        raise UserError("no videos")
    assert folder.path.exists() == stays


@pytest.mark.parametrize("steps, kept", [([], "seed: 0\n"), ([4], "seed: 1\n")])
def test_a_resumption_that_came_to_nothing_leaves_the_settings(tmp_path, steps, kept):
    folder = start(RunFolder(tmp_path))
    folder.checkpoints.mkdir()
    folder.checkpoint_path(3).touch()
    with pytest.raises(UserError, match="refused"), folder.held("seed: 1\n", resume=True):
        for step in steps:
            folder.checkpoint_path(step).touch()
        raise UserError("refused")
    assert folder.config.read_text() == kept


def test_only_the_first_process_holds_and_writes(tmp_path, monkeypatch):
    folder = start(RunFolder(tmp_path / "mine"))
    other = Other(folder.path)
    monkeypatch.setenv("SLURM_PROCID", "3")
    try:
        with folder.held("seed: 1\n", resume=False):
            assert folder.config.read_text() == "seed: 0\n"
    finally:
        other.end()


def test_several_processes_need_one_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="--output-dir"):
        RunFolder.choose(tmp_path, None, resume=False)
    assert RunFolder.choose(tmp_path, str(tmp_path / "mine"), resume=False).path == tmp_path / "mine"


@pytest.mark.parametrize("is_folder", [False, True])
def test_checkpoints(tmp_path, is_folder):
    folder = RunFolder(tmp_path)
    assert folder.newest_checkpoint() == (None, 0)
    make = Path.mkdir if is_folder else Path.touch
    folder.checkpoints.mkdir()
    for step in (900, 20, 1_000, 123_456_789):
        make(folder.checkpoint_path(step))
    make(folder.checkpoints / ".step-00001001.17.tmp")
    assert folder.newest_checkpoint() == (folder.checkpoint_path(123_456_789), 123_456_789)
    folder.remove_old_checkpoints(keep=2)
    assert {path.name for path in folder.checkpoints.iterdir()} == {"step-00001000", "step-123456789"}
    folder.remove_old_checkpoints(keep=2)
    assert folder.newest_checkpoint()[1] == 123_456_789


def test_pointer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pointer = Path("outputs/last")
    assert read_pointer(pointer) is None
    for name in ("first", "second"):
        write_pointer(pointer, name)
        assert read_pointer(pointer) == tmp_path / name, "it holds from any folder"
    assert [path.name for path in pointer.parent.iterdir()] == ["last"]


@pytest.mark.parametrize("name", ["max_steps", "batch_size", "micro_batch_size", "log_every", "checkpoint_every"])
def test_config_refuses_zero(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        RunConfig(**{name: 0})


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size", "num_processes", "sizes"),
    [
        (24, 6, 4, [6]),
        (24, 6, 1, [6, 6, 6, 6]),
        (24, 6, 3, [4, 4]),
        (24, 6, 8, [3]),
        (24, None, 2, [12]),
        (10, 4, 1, [4, 3, 3]),
        (8, 100, 1, [8]),
        (3, 1, 1, [1, 1, 1]),
    ],
)
def test_a_batch_is_kept_whatever_the_devices(batch_size, micro_batch_size, num_processes, sizes):
    config = RunConfig(batch_size=batch_size, micro_batch_size=micro_batch_size)
    assert config.micro_batches(num_processes) == sizes


def test_processes_must_divide_the_batch():
    with pytest.raises(ValueError, match="batch_size=24 cannot be shared out equally to 5 devices"):
        RunConfig(batch_size=24).micro_batches(5)
