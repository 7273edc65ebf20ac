"""A checkpoint that is not whole is named, put aside and never counted; the one before it is taken."""

import pytest
import torch

from autoencoder.common.checkpoints import checkpoints_in, defect_of, newest_whole_checkpoint
from autoencoder.common.errors import UserError


def cut_short(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_by_a_byte(path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path) -> None:
    path.write_bytes(b"")


def zeros(path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def with_a_hole(path) -> None:
    """As after a power cut: of the right length, but a block never reached the disk."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)


def text(path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


@pytest.fixture
def checkpoints(tmp_path):
    for step in (9, 18, 100_000_000):
        torch.save({"step": step, "weights": torch.arange(4_000.0)}, tmp_path / f"step-{step:08d}")
    (tmp_path / ".step-00000021.7.tmp").touch()
    (tmp_path / "step-notes.txt").touch()
    return tmp_path


@pytest.mark.parametrize("damage", [cut_short, cut_by_a_byte, empty, zeros, with_a_hole, text])
def test_the_one_before_is_taken(checkpoints, capsys, damage):
    newest = checkpoints / "step-100000000"
    assert newest_whole_checkpoint(checkpoints) == (newest, 100_000_000)
    assert not capsys.readouterr().out
    damage(newest)
    expected = (checkpoints / "step-00000018", 18)
    assert newest_whole_checkpoint(checkpoints) == expected
    line = capsys.readouterr().out
    assert line.startswith(f"{newest} is not whole (") and line.count("\n") == 1
    assert line.endswith("): it is step-100000000.broken now, and the run goes on from step-00000018\n")
    assert [step for _, step in checkpoints_in(checkpoints)] == [9, 18]
    assert newest_whole_checkpoint(checkpoints) == expected and not capsys.readouterr().out


def test_none_whole_is_one_line_and_moves_nothing(checkpoints):
    for path, _ in checkpoints_in(checkpoints):
        cut_short(path)
    with pytest.raises(UserError, match="no checkpoint in .* is whole .*step-00000018.*step-00000009") as error:
        newest_whole_checkpoint(checkpoints)
    assert "\n" not in str(error.value) and len(checkpoints_in(checkpoints)) == 3


def test_no_checkpoint_at_all(tmp_path):
    assert newest_whole_checkpoint(tmp_path / "missing") == (None, 0)


def test_only_the_first_process_moves_files(checkpoints, monkeypatch, capsys):
    empty(checkpoints / "step-100000000")
    monkeypatch.setenv("RANK", "1")
    assert newest_whole_checkpoint(checkpoints)[1] == 18
    assert (checkpoints / "step-100000000").exists() and not capsys.readouterr().out


def test_a_whole_checkpoint_has_no_defect(checkpoints):
    assert defect_of(checkpoints / "step-00000009") is None
    assert "No such file" in defect_of(checkpoints / "step-00000001")
