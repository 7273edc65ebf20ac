"""Nothing half-written is ever seen, and nothing is left behind."""

import errno
import os
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from autoencoder.common import files
from autoencoder.common.files import WriteError, atomic_folder, atomic_path, naming_failed_writes, save_safetensors


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_path_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.json"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".json"
        temporary.write_text("1")
        assert not path.exists()
    with atomic_path(str(path)) as temporary:
        temporary.write_text("2")
        assert path.read_text() == "1"
    assert path.read_text() == "2" and names(path.parent) == ["a.json"]


def test_an_error_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError("stop")
    assert path.read_text() == "old" and names(tmp_path) == ["a.json"]
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass  # nothing was written
    assert path.read_text() == "old"


def test_the_data_are_on_disk_before_the_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: (order.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(files.os, "replace", lambda *names: (order.append("replace"), replace(*names)))
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("1")
    assert order == ["fsync", "replace"]
    with atomic_folder(tmp_path / "b") as temporary:
        (temporary / "1").write_text("1")
        (temporary / "2").write_text("2")
    assert order[2:] == ["fsync", "fsync", "replace"]


def test_folder_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "new" / "model"
    for value in ("1", "2"):
        with atomic_folder(path) as temporary:
            assert not any(temporary.iterdir())
            (temporary / value).write_text(value)
            assert not (path / value).exists()
        assert names(path) == [value] and names(path.parent) == ["model"]


def test_an_error_keeps_the_old_folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(RuntimeError, match="stop"), atomic_folder(path) as temporary:
        (temporary / "new").touch()
        raise RuntimeError("stop")
    assert names(path) == ["old"] and names(tmp_path) == ["model"]


def test_a_failing_rename_keeps_the_old_folder(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    replace = os.replace

    def fail(source, target):
        if str(source).endswith(".tmp"):
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"), atomic_folder(path) as temporary:
        (temporary / "new").touch()
    assert names(path) == ["old"] and names(tmp_path) == ["model"]


def test_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    turned = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    save_safetensors({"turned": turned}, path, {"note": "x"})
    assert torch.equal(load_file(path)["turned"], turned)
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"note": "x"}
    assert names(tmp_path) == ["a.safetensors"]


@pytest.fixture
def small_files():
    """No file of this process can grow beyond 100 kB, as if the disk were full."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, former[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, former)


def write_checkpoint(path) -> None:
    with atomic_path(path) as temporary:
        torch.save({"weights": torch.zeros(100_000)}, temporary)


def write_shard(path) -> None:
    save_safetensors({"weights": torch.zeros(100_000)}, path)


def write_text(path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("x" * 200_000)


def write_model(path) -> None:
    with atomic_folder(path) as temporary:
        (temporary / "config.json").write_text("{}")
        save_safetensors({"weights": torch.zeros(100_000)}, temporary / "model.safetensors")


@pytest.mark.parametrize("write", [write_checkpoint, write_shard, write_text, write_model])
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, small_files, write):
    path = tmp_path / "step-1"
    path.mkdir() if write is write_model else path.write_text("old")
    before = os.stat(path)
    with pytest.raises(WriteError) as error:
        write(path)
    message = str(error.value)
    assert "step-1" in message and "could not be written: File too large" in message and "\n" not in message
    assert names(tmp_path) == ["step-1"] and os.stat(path).st_mtime == before.st_mtime


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_errors_of_the_disk_are_named_and_others_pass(tmp_path, number):
    expected = f"{tmp_path} could not be written: {os.strerror(number)}"
    with pytest.raises(WriteError, match=expected), naming_failed_writes(tmp_path):
        raise OSError(number, os.strerror(number))
    for other in (OSError(errno.ENOENT, "no", "elsewhere"), RuntimeError("a bug"), WriteError("said already")):
        with pytest.raises(type(other)) as passed, atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("1")
            raise other
        assert passed.value is other and not names(tmp_path)
