"""The folder of a run and the pointer to the last model."""

from pathlib import Path

import pytest

from autoencoder.common.config import RunConfig
from autoencoder.common.run import RunFolder, read_pointer, write_pointer


def start(folder: RunFolder) -> RunFolder:
    folder.path.mkdir(parents=True)
    folder.config.write_text("seed: 0\n")
    return folder


def test_a_new_run_gets_the_next_number(tmp_path):
    assert start(RunFolder.choose(tmp_path, None, resume=False)).path == tmp_path / "run-001"
    assert start(RunFolder.choose(tmp_path, None, resume=False)).path == tmp_path / "run-002"
    (tmp_path / "run-009").mkdir()
    (tmp_path / "run-old").mkdir()
    assert RunFolder.choose(tmp_path, None, resume=False).path == tmp_path / "run-010"


def test_resume_takes_the_newest_run(tmp_path):
    assert RunFolder.choose(tmp_path, None, resume=True).path == tmp_path / "run-001", "none there: it starts one"
    for name in ("run-001", "run-002"):
        start(RunFolder(tmp_path / name))
    assert RunFolder.choose(tmp_path, None, resume=True).path == tmp_path / "run-002"


def test_a_given_folder_is_not_overwritten(tmp_path):
    folder = start(RunFolder.choose(tmp_path, str(tmp_path / "mine"), resume=False))
    assert folder.path == tmp_path / "mine"
    with pytest.raises(FileExistsError, match=r"mine holds a run already.*--resume"):
        RunFolder.choose(tmp_path, str(folder.path), resume=False)
    assert RunFolder.choose(tmp_path, str(folder.path), resume=True).path == folder.path


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
