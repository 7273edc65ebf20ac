import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from video_files import make_ucf101, make_video, numbers

from autoencoder.common.errors import UserError
from autoencoder.data import DataConfig, remarks
from autoencoder.data.ucf101 import UCF101
from autoencoder.data.ucf101.__main__ import main
from autoencoder.data.ucf101.check import COMPLETE, Archive, Counts, _in_short, check

CLASSES = ("Archery", "HandstandPushups", "Bowling")  # not in the order of the alphabet
VIDEOS = (
    "Archery/v_Archery_g01_c01.avi",
    "Archery/v_Archery_g08_c01.avi",
    "Bowling/v_Bowling_g08_c02.avi",
    "HandstandPushups/v_HandStandPushups_g01_c01.avi",
    "HandstandPushups/v_HandStandPushups_g08_c01.avi",
)
TEST = (VIDEOS[0], VIDEOS[3])
COUNTS = Counts(videos=5, classes=3, train=3, test=2)


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    monkeypatch.setattr(remarks, "_printed", set())


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ucf101")
    make_ucf101(root, VIDEOS, CLASSES, TEST)
    return root


@pytest.fixture
def root(archive, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(archive, tmp_path / "data"))


def videos(data: UCF101) -> list[str]:
    return ["/".join(Path(data.source(i)).parts[-2:]) for i in range(len(data))]


def test_splits_and_ids(archive):
    train, test, both = (UCF101(archive, 8, 32, split=split) for split in ("train", "test", "all"))
    assert train.class_names == CLASSES and train.flip_invariant
    assert videos(train) == [video for video in VIDEOS if video not in TEST] and tuple(videos(test)) == TEST
    assert sorted(videos(both)) == sorted(VIDEOS)
    assert [train.label(i) for i in range(3)] == [0, 2, 1] and [test.label(i) for i in range(2)] == [0, 1]


def test_class_names_in_both_directions(archive):
    data = UCF101(archive, 8, 32)
    assert [data.class_id(name) for name in data.class_names] == [0, 1, 2]
    assert data.class_id("HandStandPushups") == data.class_id("handstandpushups") == 1
    with pytest.raises(ValueError, match="no class 'Bowlling'; nearest: Bowling"):
        data.class_id("Bowlling")


def test_clips(archive):
    data = UCF101(archive, 8, 32, sample_fps=None, crop="random")
    clip = data.clip(0, np.random.default_rng(0))
    assert clip.shape == (8, 32, 32, 3)
    assert np.diff(numbers(data.clip(0))).tolist() == [1] * 7


def test_companions_are_of_the_class_and_the_group(tmp_path):
    names = [f"Archery/v_Archery_g{group:02}_c{clip:02}.avi" for group in (1, 2) for clip in (1, 2, 3)]
    names += ["Bowling/v_Bowling_g01_c01.avi", "HandstandPushups/v_HandStandPushups_g01_c01.avi", "Bowling/v_other.avi"]
    names += ["HandstandPushups/v_HandstandPushups_G01_c02.AVI"]
    make_ucf101(tmp_path, names, CLASSES, test=names[3:6])
    for split in ("train", "test"):
        data = UCF101(tmp_path, 8, 32, split=split, sample_fps=None)
        own, read = videos(data), []
        data.clip = lambda index, rng, own=own, read=read: read.append(own[index])
        for index, name in enumerate(own):
            read.clear()
            for seed in range(30):
                data.companion(index, np.random.default_rng(seed))
            others = {o for o in own if o != name and o.lower().split("_c")[0] == name.lower().split("_c")[0]}
            assert set(read) == (others or {name}), "another moment where the group has no other video in this split"


def test_folds(root):
    (root / "ucfTrainTestlist" / "trainlist02.txt").write_text(f"{VIDEOS[1]} 1\n")
    assert videos(UCF101(root, 8, 32, fold=2)) == [VIDEOS[1]] and len(UCF101(root, 8, 32, fold=3)) == 3


def test_lists_may_spell_the_folder_like_its_files(root):
    path = root / "ucfTrainTestlist" / "trainlist01.txt"
    path.write_text(path.read_text().replace("HandstandPushups/", "HandStandPushups/"))
    assert videos(UCF101(root, 8, 32))[2] == VIDEOS[4]


@pytest.mark.parametrize(
    "layout", ["lists in root", "classes in root", "classes and lists in root", "the videos alone"]
)
def test_layouts(root, layout):
    given = root
    if layout != "the videos alone" and "lists" in layout:
        for path in (root / "ucfTrainTestlist").iterdir():
            path.rename(root / path.name)
    if "classes" in layout:
        for path in (root / "UCF-101").iterdir():
            path.rename(root / path.name)
        (root / "UCF-101").rmdir()
    if layout == "the videos alone":
        given = root / "UCF-101"
    assert len(UCF101(given, 8, 32)) == 3


def test_short_videos_are_counted(root):
    make_video(root / "UCF-101" / VIDEOS[1], count=20, codec="mpeg4")
    assert UCF101(root, 8, 32).too_short() == [str(root / "UCF-101" / VIDEOS[1])]
    assert UCF101(root, 8, 32, sample_fps=None).too_short() == []
    assert len(UCF101(root, 16, 32, split="all").too_short()) == 1
    assert len(UCF101(root, 18, 32, split="all", sampling="stride").too_short()) == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace(" ", "\t"),
        lambda text: text.replace(".avi", ".AVI").replace("/v_", "/V_"),
        lambda text: text.replace("\n", "  \n\n# a comment\n"),
        lambda text: text.replace("/", "\\"),
        lambda text: text.replace("Archery/", "UCF-101/Archery/").replace("Bowling/", "./Bowling/"),
        lambda text: re.sub(r" \d\n", "\n", text),
        lambda text: re.sub(r" (\d)\n", lambda found: f" {int(found[1]) - 1}\n", text),
        lambda text: text.rstrip("\n"),
    ],
    ids=["byte order mark", "tabs", "capitals", "comments", "backslashes", "folders", "no ids", "ids from 0", "no end"],
)
def test_lists_as_people_save_them(root, change):
    expected = videos(UCF101(root, 8, 32))
    path = root / "ucfTrainTestlist" / "trainlist01.txt"
    path.write_text(change(path.read_text()), encoding="utf-8")
    data = UCF101(root, 8, 32)
    assert videos(data) == expected and [data.label(i) for i in range(3)] == [0, 2, 1]


@pytest.mark.parametrize("first", ["\ufeff1\t{}\r\n2\t{}\r\n3\t{} \r\n", "0 {}\n1 {}\n2 {}\n", "{}\n\n# none\n{}\n{}"])
def test_class_lists_as_people_save_them(root, first):
    (root / "ucfTrainTestlist" / "classInd.txt").write_bytes(first.format(*CLASSES).encode())
    assert UCF101(root, 8, 32).class_names == CLASSES


def test_capitals_of_the_files_do_not_matter(root):
    path = root / "UCF-101" / VIDEOS[1]
    path.rename(path.with_name("V_Archery_g08_c01.AVI"))
    assert videos(UCF101(root, 8, 32))[0] == "Archery/V_Archery_g08_c01.AVI"


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("trainlist01.txt", "\n# nothing\n", "trainlist01.txt: it lists no video"),
        ("trainlist01.txt", f"{VIDEOS[1]} 1\n{VIDEOS[1].upper()} 1\n", "trainlist01.txt: 1 videos are listed twice"),
        ("trainlist01.txt", "Bowlling/v_a.avi\n", "line 1: .*no class Bowlling; nearest: bowling"),
        ("trainlist01.txt", f"{VIDEOS[1]} 0\n{VIDEOS[2]} 3\n", "line 2: .* Bowling has the number 2"),
        ("trainlist01.txt", f"{VIDEOS[1]} one\n", "line 1: .* Archery has the number 1"),
        ("trainlist01.txt", "v_Archery_g08_c01.avi 1\n", "line 1: .* a line is <class>/<video>.avi"),
        ("trainlist01.txt", f"{VIDEOS[1]} 1 2\n", "line 1: .* a line is <class>/<video>.avi"),
        ("classInd.txt", "", "classInd.txt: it lists no class"),
        ("classInd.txt", "1 Archery\n2 archery\n", "classInd.txt, line 2: the class archery is listed before"),
        ("classInd.txt", "1 Archery\nBowling\n", "classInd.txt, line 2: expected '2 <class name>', got 'Bowling'"),
    ],
)
def test_lists_that_cannot_be_read(root, name, text, message):
    (root / "ucfTrainTestlist" / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        UCF101(root, 8, 32)


def expect_missing(root: Path, *parts: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        UCF101(root, 8, 32)
    expected = ("UCF-101/ApplyEyeMakeup/", "classInd.txt", "https://www.crcv.ucf.edu/data/UCF101.php")
    for part in (str(root), "--dataset shapes", *expected, *parts):
        assert part in str(caught.value)


def test_nothing_there(tmp_path):
    expect_missing(tmp_path / "nowhere", "there is no such folder")
    expect_missing(tmp_path, "no folder there holds classInd.txt, trainlist01.txt")


def test_missing_videos_are_counted_and_named(root):
    shutil.rmtree(root / "UCF-101" / "Archery")
    expect_missing(root, "1 of 3 listed videos are missing: Archery/v_Archery_g08_c01.avi.")
    shutil.rmtree(root / "UCF-101")
    expect_missing(root, "3 of 3 listed videos are missing")


def test_copies_in_another_format_are_told_from_missing_videos(root, capsys):
    for video in VIDEOS[1:]:
        path = root / "UCF-101" / video
        path.rename(path.with_suffix(".mp4"))
    (root / "UCF-101" / "Archery" / "._v_Archery_g08_c01.mp4").touch()
    (root / "UCF-101" / "Archery" / "mine.avi").touch()
    beside = "beside 5 that are not named v_*.avi (Archery/mine.avi, Archery/v_Archery_g08_c01.mp4, Bowling/"
    expect_missing(root, "3 of 3 listed videos are missing", f"it holds Archery 1 of 2, {beside}")
    with pytest.raises(FileNotFoundError, match="holds none of the videos that are listed in trainlist01.txt"):
        UCF101(root, 8, 32, allow_missing=True)
    assert f"4 of 5 listed videos are missing; it holds Archery 1 of 2, {beside}" in capsys.readouterr().err
    problem = "videos are not named v_*.avi and do not count: Archery/mine.avi"
    assert [text for text in check(Archive(root), COUNTS, quick=True) if text.startswith(f"5 {problem}, Archery/v_")]
    assert [text for text in check(Archive(root, ["archery"]), COUNTS, quick=True) if text.startswith(f"2 {problem}")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_list_of_windows_is_named(root, encoding):
    path = root / "ucfTrainTestlist" / "trainlist01.txt"
    path.write_bytes(("\ufeff" * (encoding == "utf-16-be") + path.read_text()).encode(encoding))
    with pytest.raises(UserError, match="trainlist01.txt is UTF-16 text, .*: save it as UTF-8"):
        UCF101(root, 8, 32)
    assert [text for text in check(Archive(root), COUNTS, quick=True) if "trainlist01.txt is UTF-16 text" in text]


def test_where_no_list_can_be_read_it_is_not_told_what_there_is(root, capsys):
    for path in (root / "ucfTrainTestlist").glob("trainlist*.txt"):
        path.write_text("Swimming/v_Swimming_g01_c01.avi 4\n")
    with pytest.raises(SystemExit):
        main(["--root", str(root), "--quick", "true"], COUNTS)
    printed = capsys.readouterr().out
    assert "it has no class Swimming" in printed and "There are:" not in printed and "no video of" not in printed


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("classInd.txt", "1 Archery\n3 Bowling\n", "classInd.txt, line 2: expected '2 <class name>', got '3 Bowling'"),
        ("trainlist01.txt", f"{VIDEOS[0]} 1\n{VIDEOS[2]} 2\n", "trainlist01.txt, line 2: .* 2' does not agree"),
        ("trainlist01.txt", "Swimming/v_Swimming_g01_c01.avi 4\n", "trainlist01.txt, line 1: 'Swimming"),
    ],
)
def test_wrong_lists(root, name, text, message):
    (root / "ucfTrainTestlist" / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        UCF101(root, 8, 32)


@pytest.mark.parametrize("options, message", [({"split": "val"}, "train, test, all"), ({"fold": 4}, "fold=4")])
def test_wrong_arguments(archive, options, message):
    with pytest.raises(ValueError, match=message):
        UCF101(archive, 8, 32, **options)


def test_check_of_a_complete_tree(archive, capsys):
    assert (
        check(Archive(archive), COUNTS)
        == check(Archive(archive / "UCF-101"), COUNTS)
        == check(Archive(archive), COUNTS, num_workers=1)
        == []
    )
    main(["--root", str(archive), "--num-workers", "0"], COUNTS)
    assert "is complete: 5 videos of 3 classes, 3 and 2 in split 1; every file opens" in capsys.readouterr().out
    for fold in (2, 3):
        assert (archive / "ucfTrainTestlist" / f"trainlist{fold:02d}.txt").is_file()


def test_check_counts_against_the_archive(archive):
    assert (COMPLETE.videos, COMPLETE.classes, COMPLETE.train, COMPLETE.test) == (13_320, 101, 9_537, 3_783)
    assert check(Archive(archive), quick=True) == [
        "5 videos, there should be 13,320",
        "3 classes in classInd.txt, there should be 101",
        "3 videos in trainlist01.txt, there should be 9,537",
        "2 videos in testlist01.txt, there should be 3,783",
    ]


def test_check_opens_files(root):
    videos = root / "UCF-101"
    data = (videos / VIDEOS[1]).read_bytes()
    (videos / VIDEOS[1]).write_bytes(data[: len(data) // 2])
    (videos / VIDEOS[2]).write_bytes(b"")
    assert check(Archive(root), COUNTS, quick=True) == []
    for num_workers in (0, 2):
        cut, empty = check(Archive(root), COUNTS, num_workers=num_workers)
        assert VIDEOS[1] in cut and VIDEOS[2] in empty


def test_check_names_what_is_missing(root):
    (root / "UCF-101" / VIDEOS[2]).unlink()
    assert check(Archive(root), COUNTS, quick=True) == [
        "4 videos, there should be 5",
        "1 classes without a video: Bowling",
        f"1 listed videos are missing: {VIDEOS[2].lower()}",
    ]
    make_video(root / "UCF-101" / "Curling" / "v_Curling_g01_c01.avi", count=2, codec="mpeg4")
    problems = check(Archive(root), COUNTS, quick=True)
    assert "1 folders of videos that are no class: curling" in problems
    assert "1 videos are in neither list of split 1: curling/v_curling_g01_c01.avi" in problems


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("classInd.txt", None, "there is no classInd.txt"),
        ("classInd.txt", "1 Archery\n3 Bowling\n", "classInd.txt, line 2: expected '2 <class name>'"),
        ("testlist01.txt", None, "1 lists missing in .*ucfTrainTestlist: testlist01.txt"),
        ("trainlist02.txt", None, "1 lists missing in .*ucfTrainTestlist: trainlist02.txt"),
        ("trainlist02.txt", "Swimming/v_Swimming_g01_c01.avi 4\n", "trainlist02.txt, line 1: .* does not agree"),
        ("testlist03.txt", f"{VIDEOS[0]}\n", f"1 videos are in neither list of split 3: {VIDEOS[3].lower()}"),
        ("testlist02.txt", "\n".join((*TEST, VIDEOS[1])), f"1 videos are listed twice in split 2: {VIDEOS[1].lower()}"),
        ("testlist01.txt", f"{TEST[0]}\n{TEST[1]}\n{TEST[0]}\n", "3 videos in testlist01.txt, there should be 2"),
    ],
)
def test_check_of_lists(root, name, text, message):
    path = root / "ucfTrainTestlist" / name
    path.unlink() if text is None else path.write_text(text)
    problems = check(Archive(root), COUNTS, quick=True)
    assert [problem for problem in problems if re.search(message, problem)], problems


def test_split_1_alone_is_enough(root):
    for path in (root / "ucfTrainTestlist").glob("*list0[23].txt"):
        path.unlink()
    assert check(Archive(root), COUNTS, quick=True) == []


def test_the_check_as_a_command(root, tmp_path, capsys):
    """Ends with status 1 and says where the data come from; nothing warns of a module that is imported twice."""
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "autoencoder.data.ucf101", "--quick", "--root"]
    result = subprocess.run([*command, str(root)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and "RuntimeWarning" not in result.stderr, result.stderr
    for part in ("is not complete", "5 videos, there should be 13,320", "https://www.crcv.ucf.edu/data/UCF101.php"):
        assert part in result.stdout
    with pytest.raises(SystemExit) as caught:
        main(["--root", str(tmp_path / "nowhere"), "--num-workers", "0"])
    assert caught.value.code == 1 and "there is no folder" in capsys.readouterr().out


# parts of it

PART = ("Archery", "Bowling", "Curling", "Diving")
PART_VIDEOS = [f"{name}/v_{name}_g{g:02}_c{c:02}.avi" for name in PART for g in (1, 2, 8) for c in (1, 2)]
PART_TEST = [name for name in PART_VIDEOS if "_g08_" in name]


@pytest.fixture
def listed(tmp_path) -> Path:
    """Lists of 24 videos, and empty files of those names; Curling has none, Diving none that is listed to test on."""
    make_ucf101(tmp_path, [], PART)
    lists = tmp_path / "ucfTrainTestlist"
    (lists / "testlist01.txt").write_text("".join(f"{name}\n" for name in PART_TEST))
    train = [f"{n} {PART.index(n.split('/')[0]) + 1}\n" for n in PART_VIDEOS if n not in PART_TEST]
    (lists / "trainlist01.txt").write_text("".join(train))
    for name in PART_VIDEOS:
        if "Curling" not in name and not ("Diving" in name and name in PART_TEST):
            path = tmp_path / "UCF-101" / name.replace("Bowling/", "bowling/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return tmp_path


def configured(root: Path, split: str, **settings) -> UCF101:
    return DataConfig(dataset="ucf101", data_root=str(root), **settings).build(split, 8, 32)


def groups(data: UCF101) -> set[str]:
    return {data.listing.content_names[content] for content in data.listing.contents.tolist()}


def test_classes_are_taken_in_official_order_and_need_no_others(listed):
    data = UCF101(listed, 8, 32, classes=["bowling", "ARCHERY"])
    assert data.class_names == ("Archery", "Bowling") and len(data) == 8
    assert {data.source(i).split("/")[-2]: data.label(i) for i in range(8)} == {"Archery": 0, "bowling": 1}
    assert data.class_id("bowling") == 1
    with pytest.raises(UserError, match="no class 'Diving'"):
        data.class_id("Diving")
    assert len(UCF101(listed, 8, 32, classes=["Diving"])) == 4 and groups(data) == {
        f"{name}_g0{group}" for name in ("Archery", "Bowling") for group in (1, 2)
    }


def test_missing_videos_are_allowed_where_it_is_said(listed, capsys):
    with pytest.raises(
        FileNotFoundError, match="4 of 16 listed videos are missing: Curling.*--allow-missing"
    ) as caught:
        UCF101(listed, 8, 32)
    assert "it holds Archery 6 of 6, Bowling 6 of 6, Diving 4 of 6;" in str(caught.value)
    train, test = (configured(listed, split, allow_missing=True) for split in ("train", "val"))
    assert train.class_names == test.class_names == ("Archery", "Bowling", "Diving")
    assert (len(train), len(test)) == (12, 4) and test.class_names[test.label(3)] == "Bowling"
    told = capsys.readouterr().err
    there = "it holds Archery 6 of 6, Bowling 6 of 6, Diving 4 of 6"
    assert told == f"{listed / 'UCF-101'}: 8 of 24 listed videos are missing; {there}\n"
    assert len(UCF101(listed, 8, 32, split="all", allow_missing=True)) == 16


@pytest.mark.parametrize(
    "split, settings, message",
    [
        (
            "val",
            {"classes": ["Diving"]},
            r"none of the videos .* testlist01.txt \(trainlist01.txt: 4\): --held-out-con",
        ),
        ("train", {"classes": ["Curling"]}, r"none of the videos .* in trainlist01.txt \(testlist01.txt: 0\)"),
        ("train", {"classes": ["Archery", "Curling"]}, "no video of Curling, which --classes asks for"),
        ("train", {"classes": ["Divin", "Golf"]}, "no class 'Divin'; nearest: Diving.*no class 'Golf'"),
        ("train", {"held_out_contents": ["Archery_g02", "Archery_g03"]}, "content 'archery_g03'; nearest: Archery_g0"),
        ("val", {"classes": ["Archery"], "held_out_contents": ["Diving_g01"]}, "no content 'diving_g01'"),
        (
            "train",
            {"classes": ["Diving"], "held_out_contents": ["g01", "g02"]},
            "leaves no video to train on; there are the contents Diving_g01, Diving_g02",
        ),
    ],
)
def test_parts_that_there_are_not(listed, split, settings, message):
    with pytest.raises(UserError, match=message):
        configured(listed, split, allow_missing=True, **settings)


def test_contents_are_held_out_in_place_of_the_lists(listed):
    own = {"classes": ["Archery", "Bowling"], "held_out_contents": ["archery_G01", "bowling_g08"]}
    train, held_out = (configured(listed, split, **own) for split in ("train", "val"))
    assert groups(held_out) == {"Archery_g01", "Bowling_g08"} and len(held_out) == 4
    assert groups(train) == {"Archery_g02", "Archery_g08", "Bowling_g01", "Bowling_g02"} and len(train) == 8
    own["held_out_contents"] = ["g02"]
    train, held_out = (configured(listed, split, **own) for split in ("train", "val"))
    assert groups(held_out) == {"Archery_g02", "Bowling_g02"} and not groups(train) & groups(held_out)


def test_a_group_in_both_lists_is_refused(listed):
    path = listed / "ucfTrainTestlist" / "testlist01.txt"
    path.write_text(path.read_text() + "Archery/v_archery_g02_c03.avi\n")
    (listed / "UCF-101" / "Archery" / "v_Archery_g02_c03.avi").touch()
    for split in ("train", "test"):
        with pytest.raises(UserError, match="trainlist01.txt and testlist01.txt in .* share archery_g02"):
            UCF101(listed, 8, 32, split=split, classes=["Archery"])
    held_out = UCF101(listed, 8, 32, split="test", classes=["Archery"], held_out_contents=["Archery_g02"])
    assert len(held_out) == 3 and groups(held_out) == {"Archery_g02"}
    assert "1 groups are in both lists of split 1: archery_g02" in check(Archive(listed), quick=True)


def test_the_check_of_a_part(listed, root, capsys):
    def checked(*arguments: str, of: Path = listed) -> tuple[int, str]:
        try:
            main(["--root", str(of), "--quick", *arguments], COUNTS)
        except SystemExit as ended:
            return ended.code, capsys.readouterr().out
        return 0, capsys.readouterr().out

    code, text = checked()
    assert code == 1 and "1 classes without a video: Curling" in text and "8 listed videos are missing" in text
    for line in ("Diving     4 of   6  g01 to g02", "complete: Archery, Bowling", "no video of Curling"):
        assert f"\n  {line}\n" in text
    assert "split 1: 12 of 16 to train on, 4 of 8 to test on" in text
    assert checked("--allow-missing")[0] == 1, "split 2 and 3 list none of the videos"
    for fold in (2, 3):
        for path in (listed / "ucfTrainTestlist").glob(f"*list0{fold}.txt"):
            path.unlink()
    code, text = checked("--allow-missing")
    assert code == 0 and "in order as far as it is there; names alone were looked at" in text
    code, text = checked("--classes", "bowling,Archery")
    assert (code, text.count("\n")) == (0, 1) and "holds all 12 videos of Archery, Bowling" in text
    code, text = checked("--classes", "Diving,Curling", "--allow-missing")
    assert code == 1 and "1 classes without a video: Curling" in text and "Archery" not in text.partition("Expected")[0]
    with pytest.raises(UserError, match="no class 'Golf'"):
        checked("--classes", "Golf")
    (root / "UCF-101" / VIDEOS[2]).write_bytes(b"")
    (root / "UCF-101" / VIDEOS[0]).unlink()
    assert VIDEOS[2] in check(Archive(root), COUNTS, allow_missing=True)[0]
    assert check(Archive(root, ["HandstandPushups"]), COUNTS) == []


def test_check_of_an_empty_folder(tmp_path):
    make_ucf101(tmp_path, [], PART)
    assert "there is no video" in check(Archive(tmp_path), COUNTS, allow_missing=True)


def test_groups_in_short():
    assert _in_short(["g03", None, "g01", "g02", "g25", "g07"]) == "g01 to g03, g07, g25"
