"""What a folder of videos is taken to hold: every real file once, and a word about the rest."""

import os
from pathlib import Path

import pytest

from autoencoder.common.errors import UserError
from autoencoder.data import DataConfig, remarks
from autoencoder.data.scan import scan_folder


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    monkeypatch.setattr(remarks, "_printed", set())


def plant(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def listed(root: Path) -> dict[str, str]:
    listing = scan_folder(root)
    labels = ["" if listing.labels is None else listing.class_names[label] for label in listing.labels]
    return dict(zip(listing.paths, labels, strict=True))


def test_links_to_parents_make_no_loops(tmp_path, capsys):
    root = plant(tmp_path / "data", "a/1.mp4", "b/2.mp4")
    (root / "a" / "self").symlink_to(root / "a")
    (root / "b" / "up").symlink_to(root)
    (root / "b" / "outside").symlink_to(tmp_path)
    assert listed(root) == {"a/1.mp4": "a", "b/2.mp4": "b"}
    assert "left out 3 repeated files or folders (a/self, b/outside, b/up)" in capsys.readouterr().err


def test_every_real_file_is_listed_once_by_its_first_path(tmp_path, capsys):
    root = plant(tmp_path / "data", "b/1.mp4", "b/2.mp4", "d/3.mp4")
    store = plant(tmp_path / "store", "4.mp4")
    (root / "a").mkdir()
    (root / "a" / "one.mp4").symlink_to(root / "b" / "1.mp4")
    os.link(root / "b" / "2.mp4", root / "d" / "hard.mp4")
    (root / "c").symlink_to(store)
    (root / "e").symlink_to(store)
    assert listed(root) == {"a/one.mp4": "a", "b/2.mp4": "b", "c/4.mp4": "c", "d/3.mp4": "d"}
    assert "left out 3 repeated files or folders (b/1.mp4, d/hard.mp4, e)" in capsys.readouterr().err


def test_links_that_cross_stay_few(tmp_path):
    root = plant(tmp_path, *(f"{number:02}/video.mp4" for number in range(12)))
    for one in range(12):
        for other in range(12):
            (root / f"{one:02}" / f"to{other:02}").symlink_to(root / f"{other:02}")
    assert len(listed(root)) == 12


def test_no_file_is_in_both_parts_whatever_links_to_it(tmp_path):
    root = plant(tmp_path / "train", "a/1.mp4", "a/2.mp4")
    held_out = plant(tmp_path / "held_out", "a/3.mp4")
    config = DataConfig(dataset="folder", data_root=str(root), held_out_root=str(held_out))
    assert [len(config.build(split, 4, 32)) for split in ("train", "val")] == [2, 1]
    (held_out / "a" / "4.mp4").symlink_to(root / "a" / "2.mp4")
    with pytest.raises(UserError, match=r"1 of the held-out videos are training videos.*2\.mp4"):
        config.build("train", 4, 32)


def test_what_is_left_out_is_said_once(tmp_path, capsys):
    names = [
        "a/1.mp4",
        "a/notes.txt",
        "b/.hidden.mp4",
        ".git/x",
        "top.TS",
        "c/deep/2.GIF",
        "sheet.csv",
        "x.pdf",
        "y.md",
    ]
    root = plant(tmp_path, *names)
    listing = scan_folder(root)
    assert list(listing.paths) == ["a/1.mp4", "c/deep/2.GIF", "top.TS"] and listing.labels is None
    said = capsys.readouterr().err
    for part in (
        "no video has a label, for 1 video (top.TS) beside the 2 folders",
        "left out 4 files (a/notes.txt, sheet.csv, x.pdf, ... (4 in all)): videos end in .mp4",
        "left out 2 hidden files or folders (.git, b/.hidden.mp4)",
        "1 folder (b) without a video, which make no class",
    ):
        assert f"{root}: {part}" in said
    scan_folder(root)
    assert not capsys.readouterr().err
    plant(root, "more.txt")
    scan_folder(root)
    assert "left out 5 files" in capsys.readouterr().err
    scan_folder(plant(tmp_path / "one", "a/1.mp4", "a/.2.mp4"))
    assert "left out 1 hidden file or folder (a/.2.mp4)" in capsys.readouterr().err


def test_only_the_first_process_says_it(tmp_path, capsys, monkeypatch):
    plant(tmp_path, "a/1.mp4", "a/notes.txt")
    for rank, says in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        scan_folder(tmp_path)
        assert ("notes.txt" in capsys.readouterr().err) == says
