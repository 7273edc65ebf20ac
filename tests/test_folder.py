from pathlib import Path

import numpy as np
import pytest
import torch
from video_files import make_video, numbers

from autoencoder.common.errors import UserError
from autoencoder.data import DataConfig, remarks
from autoencoder.data.folder import VideoFolder
from autoencoder.data.video_io import UnreadableVideo

CLIPS = Path(__file__).parents[2] / "shared" / "clips"
TREE = ("run/b.mp4", "run/deep/a.MKV", "jump/a.avi", "jump/c.mov")


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    monkeypatch.setattr(remarks, "_printed", set())


@pytest.fixture(scope="module")
def one_video(tmp_path_factory) -> Path:
    return make_video(tmp_path_factory.mktemp("one") / "video.mp4")


def plant(root: Path, names) -> Path:
    """Files of these names; the tests that only list videos need nothing in them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def everything(root: Path, **options) -> VideoFolder:
    return VideoFolder(root, 16, 32, val_share=0.0, **options)


def names(data: VideoFolder, root: Path) -> list[str]:
    return [Path(data.source(i)).relative_to(root).as_posix() for i in range(len(data))]


def test_folders_are_classes(tmp_path):
    plant(tmp_path, [*TREE, "run/.hidden.mp4", ".trash/d.mp4", "notes.txt", "run/notes.csv", "empty/readme.md"])
    data = everything(tmp_path)
    assert names(data, tmp_path) == sorted(TREE)
    assert data.class_names == ("jump", "run") and data.flip_invariant
    assert [data.class_names[data.label(i)] for i in range(4)] == [name.split("/")[0] for name in sorted(TREE)]
    assert not everything(tmp_path, flip_invariant=False).flip_invariant


def test_one_video_outside_the_folders_means_no_classes(tmp_path):
    data = everything(plant(tmp_path, [*TREE, "top.webm"]))
    assert data.class_names == () and len(data) == 5 and {data.label(i) for i in range(5)} == {-1}


def test_clips_come_from_the_reader(tmp_path, one_video):
    (tmp_path / "video.mp4").write_bytes(one_video.read_bytes())
    data = VideoFolder(tmp_path, 5, 32, sample_fps=None, crop="random", val_share=0.0)
    clip = data.clip(0, np.random.default_rng(0))
    assert clip.shape == (5, 32, 32, 3) and clip.dtype == torch.uint8
    assert torch.equal(clip, data.clip(0, np.random.default_rng(0)))
    assert any(not torch.equal(clip, data.clip(0, np.random.default_rng(seed))) for seed in range(1, 5))
    assert numbers(data.clip(0)) == [22, 23, 24, 25, 26]


def test_splits_are_disjoint_whole_and_stable(tmp_path):
    plant(tmp_path, [f"{i:03}.mp4" for i in range(200)])
    before = {split: set(names(VideoFolder(tmp_path, 16, 32, split=split), tmp_path)) for split in ("train", "val")}
    assert not before["train"] & before["val"] and len(before["train"] | before["val"]) == 200
    assert 2 <= len(before["val"]) <= 25
    plant(tmp_path, [f"{i:03}.mp4" for i in range(200, 300)])
    for split in ("train", "val"):
        assert before[split] <= set(names(VideoFolder(tmp_path, 16, 32, split=split), tmp_path))


@pytest.mark.parametrize("share", [1e-9, 0.05, 0.5, 1 - 1e-9])
def test_both_splits_hold_a_video_where_there_are_two(tmp_path, share):
    plant(tmp_path, ["a.mp4", "b.mp4"])
    assert [len(VideoFolder(tmp_path, 16, 32, split=s, val_share=share)) for s in ("train", "val")] == [1, 1]


def test_shares_of_nothing_and_all(tmp_path):
    plant(tmp_path, ["a.mp4", "b.mp4"])
    assert len(VideoFolder(tmp_path, 16, 32, split="train", val_share=0.0)) == 2
    assert len(VideoFolder(tmp_path, 16, 32, split="val", val_share=1.0)) == 2
    with pytest.raises(ValueError, match="no video falls into split='val' with val_share=0.0 of 2"):
        VideoFolder(tmp_path, 16, 32, split="val", val_share=0.0)


def test_classes_are_those_of_both_splits(tmp_path):
    plant(tmp_path, ["a/1.mp4", "b/1.mp4", "c/1.mp4"])
    for split in ("train", "val"):
        assert VideoFolder(tmp_path, 16, 32, split=split).class_names == ("a", "b", "c")


def manifest(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_manifest(tmp_path, one_video):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "video.mp4").write_bytes(one_video.read_bytes())
    text = '\ufeffpath, label,start,end\nin/video.mp4,walk,,0.4\n\nin/video.mp4,"run, fast",1.6,\nin/video.mp4,walk,,\n'
    data = VideoFolder(manifest(tmp_path, text), 5, 32, sample_fps=None, val_share=0.0)
    assert data.class_names == ("run, fast", "walk") and [data.label(i) for i in range(3)] == [1, 0, 1]
    assert data.source(0) == str(tmp_path / "in/video.mp4")
    for seed in range(5):
        rng = np.random.default_rng(seed)
        assert max(numbers(data.clip(0, rng))) < 10 and min(numbers(data.clip(1, rng))) >= 40
    assert numbers(data.clip(2)) == [22, 23, 24, 25, 26]


def test_manifest_of_paths_alone(tmp_path):
    data = everything(manifest(tmp_path, "path\na.mp4\nb.mp4\n"))
    assert data.class_names == () and data.label(1) == -1
    with pytest.raises(UnreadableVideo, match="a.mp4: No such file"):
        data.clip(0)


def test_windows_of_one_file_share_its_split(tmp_path):
    rows = "".join(f"{video}.mp4,{start},{start + 1}\n" for video in range(20) for start in range(3))
    path = manifest(tmp_path, "path,start,end\n" + rows)
    sets = [set(names(VideoFolder(path, 16, 32, split=s, val_share=0.3), tmp_path)) for s in ("train", "val")]
    assert not sets[0] & sets[1] and all(sets)


def companions(data: VideoFolder, index: int, same_clip: bool = False) -> set[str]:
    """Sources of the companions of a video, over many draws; the files themselves are not read."""
    read = []
    data.clip = lambda index, rng: read.append(data.source(index))
    for seed in range(50):
        data.companion(index, np.random.default_rng(seed), same_clip)
    return {Path(source).stem for source in read}


def test_companions_are_the_other_videos_of_a_content(tmp_path):
    rows = [("a", "ann"), ("b", "ben"), ("c", ""), ("d", " ann"), ("e", "ann"), ("f", "cem"), ("g", "")]
    text = "path,content\n" + "".join(f"{path}.mp4,{content}\n" for path, content in rows)
    data = everything(manifest(tmp_path, text))
    assert companions(data, 0) == {"d", "e"} and companions(data, 3) == {"a", "e"} and companions(data, 4) == {"a", "d"}
    assert companions(data, 1) == {"b"} and companions(data, 5) == {"f"}, "the only one of its content"
    assert companions(data, 2) == {"c"} and companions(data, 6) == {"g"}, "no content is no common content"
    assert companions(data, 0, same_clip=True) == {"a"}
    assert data.listing.contents.tolist() == [0, 1, -1, 0, 0, 2, -1] and data.listing.contents.dtype == np.int32


def test_companions_keep_to_the_split(tmp_path):
    path = manifest(tmp_path, "path,content\n" + "".join(f"{i:02}.mp4,{i % 6}\n" for i in range(60)))
    for split in ("train", "val"):
        data = VideoFolder(path, 16, 32, split=split, val_share=0.4)
        own = [Path(data.source(i)).stem for i in range(len(data))]
        for index, name in enumerate(own):
            others = {f"{i:02}" for i in range(60) if i % 6 == int(name) % 6} - {name}
            assert others < set(own), "a content lies in one split"
            assert companions(data, index) <= others


def test_without_a_content_the_companion_is_another_moment(tmp_path, one_video):
    (tmp_path / "video.mp4").write_bytes(one_video.read_bytes())
    data = VideoFolder(manifest(tmp_path, "path,start,end\nvideo.mp4,0.4,1.2\n"), 5, 32, sample_fps=None, val_share=0.0)
    seen = [numbers(data.companion(0, np.random.default_rng(seed))) for seed in range(50)]
    firsts = {clip[0] for clip in seen}
    assert firsts <= set(range(10, 26)) and len(firsts) > 10, "all over the window of its line"
    assert all(np.diff(clip).tolist() == [1, 1, 1, 1] for clip in seen)
    whole = VideoFolder(tmp_path, 50, 32, sample_fps=None, val_share=0.0)
    assert torch.equal(whole.companion(0, np.random.default_rng(0)), whole.clip(0)), "there is no other moment"


def test_a_companion_that_cannot_be_read_is_named(tmp_path, one_video):
    (tmp_path / "good.mp4").write_bytes(one_video.read_bytes())
    data = everything(manifest(tmp_path, "path,content\ngood.mp4,x\nlost.mp4,x\n"), sample_fps=None)
    with pytest.raises(UnreadableVideo, match="lost.mp4: No such file"):
        data.companion(0, np.random.default_rng(0))
    assert data.companion(1, np.random.default_rng(0)).shape == (16, 32, 32, 3)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "line 1: the header must be path"),
        ("label\nrun\n", "line 1: the header must be .* got 'label'"),
        ("path,fps\na.mp4,3\n", "line 1: the header must be .* got 'path,fps'"),
        ("path,path\na.mp4,b.mp4\n", "line 1: the header"),
        ("path,start,end\na.mp4,0,1\nb.mp4,2,2\n", "line 3: start='2' and end='2' must be 0 <= start < end"),
        ("path,start\na.mp4,-1\n", "line 2: start='-1'"),
        ("path,end\na.mp4,nan\n", "line 2: .*end='nan'"),
        ("path,end\na.mp4,soon\n", "line 2: .*end='soon' must be seconds"),
        ("path,label\na.mp4\n", "line 2: 1 values for the 2 columns path,label"),
        ("path,label\na.mp4,run\nb.mp4,\n", "line 3: no label given"),
        ("path,label\n,run\n", "line 2: no path given"),
        ("path,label\na\0.mp4,run\n", "line 2: .*NUL"),
    ],
)
def test_wrong_manifest_lines_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        VideoFolder(manifest(tmp_path, text), 16, 32)


@pytest.mark.parametrize("root", ["nowhere", "nowhere.csv", "empty", "empty.csv"])
def test_no_videos(tmp_path, root):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.csv").write_text("path,label\n")
    with pytest.raises(FileNotFoundError) as caught:
        VideoFolder(tmp_path / root, 16, 32)
    for part in (str(tmp_path / root), ".webm", "path[,label][,start][,end][,content]", "--dataset shapes"):
        assert part in str(caught.value)


def test_what_is_no_folder_and_no_list(tmp_path):
    plant(tmp_path, ["one.mp4"])
    with pytest.raises(FileNotFoundError, match="no videos in .*one.mp4: it is a file. It must be a folder with"):
        everything(tmp_path / "one.mp4")
    path = tmp_path / "list.csv"
    path.write_text("path,label\none.mp4,a\n", encoding="utf-16")
    with pytest.raises(UserError, match="list.csv is UTF-16 text, .*: save it as UTF-8"):
        everything(path)


def test_wrong_arguments(tmp_path):
    plant(tmp_path, TREE)
    for options, message in (({"split": "test"}, "split='test'"), ({"val_share": 1.5}, "val_share=1.5")):
        with pytest.raises(ValueError, match=message):
            VideoFolder(tmp_path, 16, 32, **options)


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"{CLIPS} is absent")
def test_real_videos():
    data = VideoFolder(CLIPS, 8, 32, val_share=0.0)
    clips, bad = {}, {}
    for index in range(len(data)):
        try:
            clips[Path(data.source(index)).name] = data.clip(index)
        except UnreadableVideo as error:
            bad[Path(data.source(index)).name] = str(error)
    assert set(bad) == {"corrupted.mp4", "four_frames.mov", "rotated_90.mov"}
    assert all(name in reason for name, reason in bad.items())
    assert len(clips) == 5 and all(clip.shape == (8, 32, 32, 3) and clip.any(dim=3).any() for clip in clips.values())
    assert [Path(path).name for path in data.too_short()] == ["four_frames.mov", "rotated_90.mov"]


def held_out(tmp_path: Path, train, val) -> DataConfig:
    """Training videos and held-out videos of these names, each below a folder of its own or in a manifest."""
    roots = []
    for part, names in (("train", train), ("val", val)):
        if isinstance(names, str):
            (tmp_path / f"{part}.csv").write_text(names)
            roots.append(str(tmp_path / f"{part}.csv"))
        else:
            plant(tmp_path / part, names)
            roots.append(str(tmp_path / part))
    return DataConfig(dataset="folder", data_root=roots[0], held_out_root=roots[1])


@pytest.mark.parametrize(
    "val",
    [
        ("walk/1.mp4", "jump/2.mp4"),
        ("walk/1.mp4",),
        "path,label\nx/1.mp4,walk\nx/2.mp4,jump\n",
        "label,path\nwalk,deep/down/1.mp4\n",
    ],
)
def test_held_out_classes_are_matched_by_name(tmp_path, val):
    """Fewer classes are fine, and those that there are keep the ids that they have in training."""
    config = held_out(tmp_path, ("a/1.mp4", "jump/1.mp4", "run/1.mp4", "walk/1.mp4"), val)
    data = config.build("val", 16, 32)
    assert data.class_names == config.build("train", 16, 32).class_names == ("a", "jump", "run", "walk")
    for index in range(len(data)):
        assert data.class_names[data.label(index)] == ("jump" if "2.mp4" in data.source(index) else "walk")


@pytest.mark.parametrize(
    "train, val, message",
    [
        (
            ("a/1.mp4", "b/1.mp4"),
            ("b/2.mp4", "c/2.mp4"),
            "are of class 'c', but the training videos have the classes 'a', 'b'",
        ),
        (("a/1.mp4", "b/1.mp4"), ("b/2.mp4", "B/2.mp4", "Ä/2.mp4"), "of class 'B', 'Ä', but"),
        (("a/1.mp4", "b/1.mp4"), "path,label\n1.mp4,c\n2.mp4,a\n", "held-out videos are of class 'c'"),
        ("path,label\n1.mp4,a\n", ("b/2.mp4",), "are of class 'b', but the training videos have the classes 'a'"),
        (("1.mp4", "2.mp4"), ("b/2.mp4",), "are of class 'b', but the training videos have no labels"),
        (("a/1.mp4", "b/1.mp4"), ("1.mp4",), "no labels, but the training videos have the classes 'a', 'b'"),
        (("a/1.mp4", "b/1.mp4"), "path\n1.mp4\n", "no labels, but the training videos have the classes 'a', 'b'"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_held_out_classes_that_training_does_not_know(tmp_path, train, val, message, split):
    with pytest.raises(UserError, match=message):
        held_out(tmp_path, train, val).build(split, 16, 32)


def test_neither_side_needs_labels(tmp_path):
    assert len(held_out(tmp_path, ("1.mp4",), ("1.mp4", "2.mp4")).build("val", 16, 32)) == 2


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("inside", ["", "b", "list.csv", "link"])
def test_held_out_videos_are_no_training_videos(tmp_path, split, inside):
    plant(tmp_path / "all", ["a/1.mp4", "b/b/2.mp4", "b/a/3.mp4"])
    (tmp_path / "all" / "list.csv").write_text("path,label\n../all/b/a/3.mp4,b\n")
    (tmp_path / "link").symlink_to(tmp_path / "all")
    root = tmp_path / "link" if inside == "link" else tmp_path / "all" / inside
    config = DataConfig(dataset="folder", data_root=str(tmp_path / "all"), held_out_root=str(root))
    with pytest.raises(UserError, match=r"of the held-out videos are training videos, too, the first one .*/all/"):
        config.build(split, 16, 32)


# classes and contents


def words(data: VideoFolder) -> list[str]:
    """The content of every video, "" where it is not known."""
    listing = data.listing
    return [listing.content_names[content] if content >= 0 else "" for content in listing.contents.tolist()]


def parts(root: Path, **settings) -> tuple[VideoFolder, VideoFolder]:
    config = DataConfig(dataset="folder", data_root=str(root), **settings)
    return config.build("train", 16, 32), config.build("val", 16, 32)


@pytest.mark.parametrize("seed", range(8))
def test_no_content_is_in_both_parts_whatever_is_added(tmp_path, seed):
    """Nor does a content move when files are added, of its own or of others."""
    rng = np.random.default_rng(seed)
    contents = [*(f"person {number}" for number in range(rng.integers(60, 120))), ""]
    chances = rng.dirichlet(np.full(len(contents), 0.5))
    rows = [f"{number}.mp4,{rng.choice(contents, p=chances)}\n" for number in range(400)]
    sides: dict[str, str] = {}
    for count in (200, 300, 400):
        path = manifest(tmp_path, "path,content\n" + "".join(rng.permutation(rows[:count])))
        for split in ("train", "val"):
            data = VideoFolder(path, 16, 32, split=split, val_share=0.2)
            for name, word in zip(names(data, tmp_path), words(data), strict=True):
                assert sides.setdefault(word or name, split) == split
    assert set(sides.values()) == {"train", "val"}


@pytest.mark.parametrize("known", [True, False])
def test_which_classes_are_taken_moves_no_video(tmp_path, known):
    lines = [f"{number}.mp4,{number % 5},{number % 17 if known else ''}\n" for number in range(200)]
    path = manifest(tmp_path, "path,label,content\n" + "".join(lines))
    for split in ("train", "val"):
        whole, part = (VideoFolder(path, 16, 32, split=split, val_share=0.3, classes=c) for c in (None, ["4", "1"]))
        assert part.class_names == ("1", "4")
        wanted = [n for i, n in enumerate(names(whole, tmp_path)) if whole.class_names[whole.label(i)] in ("1", "4")]
        assert names(part, tmp_path) == wanted
        assert all(int(Path(n).stem) % 5 == (1, 4)[part.label(i)] for i, n in enumerate(names(part, tmp_path)))


ACTIONS = [f"{action}/person{person:02}.mp4" for action in ("bend", "jack", "wave") for person in range(4)]


def test_contents_are_held_out_by_name(tmp_path):
    plant(tmp_path, ACTIONS)
    train, held_out = parts(tmp_path, content_pattern=r"person\d+", held_out_contents=["person03", "person01"])
    assert set(words(train)) == {"person00", "person02"} and set(words(held_out)) == {"person01", "person03"}
    assert companions(train, 0) == {"person00"} and len(held_out) == 6
    train, held_out = parts(
        tmp_path, content_pattern=r"person(\d+)", held_out_contents=["03"], classes=["wave", "bend"]
    )
    assert names(held_out, tmp_path) == ["bend/person03.mp4", "wave/person03.mp4"] and len(train) == 6
    assert train.class_names == held_out.class_names == ("bend", "wave")


def test_a_pattern_need_not_fit_every_path(tmp_path, capsys):
    plant(tmp_path, ["a/x1.mp4", "a/x2.mp4", "b/x1.mp4", "b/other.mp4", "b/y.mp4"])
    data = everything(tmp_path, content_pattern=r"x(\d)|other")
    assert words(data) == ["1", "2", "", "1", ""], "a group that takes no part, and a path that does not fit"
    remark = "the content of 2 of 5 videos is not known (b/other.mp4, b/y.mp4): no --held-out-contents holds them out"
    assert capsys.readouterr().err == f"{tmp_path}: {remark}\n"
    everything(tmp_path, content_pattern=r"x(\d)|other")
    everything(tmp_path, content_pattern=r"[xyo]\w*")
    everything(tmp_path)
    assert not capsys.readouterr().err, "once, and only where there is something to say"
    listed = manifest(tmp_path, "path,content\na/x1.mp4,ann\nb/y.mp4,\nb/x1.mp4,ben\n")
    parts(listed, held_out_contents=["ann"])
    assert "the content of 1 of 3 videos is not known (b/y.mp4)" in capsys.readouterr().err


def test_accents_are_the_same_however_they_are_stored(tmp_path):
    """One film comes from a file system that keeps accents apart from their letters."""
    apart, typed = "be\N{COMBINING ACUTE ACCENT}", "b\N{LATIN SMALL LETTER E WITH ACUTE}"
    plant(tmp_path, [f"jump/{apart}.mp4", "jump/cem.mp4", "jump/dora.mp4", f"run/{typed}.mp4", "run/dora.mp4"])
    for pattern in (r"[^/]+(?=\.mp4)", f"/({typed}|cem|dora)"):
        train, held_out = parts(tmp_path, content_pattern=pattern, held_out_contents=[typed])
        assert names(held_out, tmp_path) == [f"jump/{apart}.mp4", f"run/{typed}.mp4"] and len(train) == 3
    listed = manifest(tmp_path, f"path,label,content\na.mp4,x,{apart}\nb.mp4,x,{typed}\nc.mp4,x,dora\n")
    assert len(parts(listed, held_out_contents=[typed])[1]) == 2
    listed = manifest(tmp_path, f"path,label\na.mp4,{apart}\nb.mp4,x\nc.mp4,{apart}\n")
    assert (
        len(everything(listed, classes=[typed])) == len(everything(listed, classes=[typed], class_names=[apart])) == 2
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"classes": ["jmp", "nothing"]}, "has no class 'jmp'; known: bend, jack, wave; no class 'nothing'; known"),
        ({"classes": ["Bend"]}, "has no class 'Bend'; nearest: bend"),
        ({"content_pattern": r"child\d"}, "finds a content in none of 12 paths, such as bend/person00.mp4"),
        ({"held_out_contents": ["person00"]}, r"needs to know contents: give .* or --content-pattern"),
        (
            {"content_pattern": r"person\d+", "held_out_contents": ["person07", "person01"]},
            "has no content 'person07'; nearest: person0",
        ),
        (
            {"content_pattern": r"person\d+", "held_out_contents": [f"person{n:02}" for n in range(4)]},
            "no video is left to train on with held_out_contents=",
        ),
        (
            {"content_pattern": r"person\d+", "held_out_contents": ["zoe"]},
            "has no content 'zoe'; known: person00, person01, person02, person03$",
        ),
        ({"classes": ["zoo"]}, "has no class 'zoo'; known: bend, jack, wave$"),
        ({"content_pattern": "person"}, "split='val' with val_share=0.05 of 12 videos of 1 content.*held-out-contents"),
    ],
)
def test_a_choice_that_there_is_not(tmp_path, settings, message):
    plant(tmp_path, ACTIONS)
    with pytest.raises(UserError, match=message):
        parts(tmp_path, **settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"dataset": "sprites", "classes": ["walk"]},
            r"classes=\['walk'\] is for ucf101, folder and shapes, not for s",
        ),
        ({"dataset": "sprites", "held_out_contents": ["a"]}, "held_out_contents=.* not for sprites"),
        ({"dataset": "ucf101", "content_pattern": "a"}, "content_pattern='a' is for folder, not for ucf101"),
        ({"dataset": "folder", "allow_missing": True}, "allow_missing=True is for ucf101, not for folder"),
        (
            {"data_root": "my_videos"},
            "data_root='my_videos' is for folder, ucf101 and sprites, not for shapes: give --dataset folder or ucf101",
        ),
        (
            {"dataset": "ucf101", "held_out_root": "b"},
            "held_out_root='b' is for folder, not for ucf101: give --dataset f",
        ),
        ({"dataset": "folder", "classes": []}, "classes must be different names, at least one, got"),
        ({"dataset": "ucf101", "classes": ["a", " "]}, "classes must be different names"),
        ({"dataset": "ucf101", "held_out_contents": ["a", "a"]}, "held_out_contents must be different names"),
        ({"dataset": "folder", "content_pattern": "("}, r"content_pattern='\(' is no regular expression: missing \)"),
        ({"dataset": "folder", "held_out_contents": ["a"], "held_out_root": "b"}, "both say what is held out"),
    ],
)
def test_a_choice_that_cannot_be_meant(settings, message):
    with pytest.raises(UserError, match=message):
        DataConfig(**settings)


def test_a_manifest_with_contents_takes_no_pattern(tmp_path):
    path = manifest(tmp_path, "path,label,content\na.mp4,x,ann\nb.mp4,x,ben\nc.mp4,y,ann\nd.mp4,y,cem\n")
    train, held_out = parts(path, held_out_contents=["ann"])
    assert words(train) == ["ben", "cem"] and words(held_out) == ["ann", "ann"]
    with pytest.raises(UserError, match="has a column `content`: leave out content_pattern='a'"):
        parts(path, content_pattern="a")
    with pytest.raises(UserError, match="no video of the classes y is held out with held_out_contents="):
        parts(path, classes=["y"], held_out_contents=["ben"])
    with pytest.raises(UserError, match="the videos have no labels"):
        parts(manifest(tmp_path, "path\na.mp4\nb.mp4\n"), classes=["x"])


def test_held_out_folders_have_contents_and_classes_of_their_own(tmp_path):
    plant(tmp_path / "train", [name for name in ACTIONS if "3" not in name])
    plant(tmp_path / "val", ["bend/person03.mp4", "jack/person03.mp4", "odd/person03.mp4"])
    own = {"held_out_root": str(tmp_path / "val"), "content_pattern": r"person\d+"}
    train, held_out = parts(tmp_path / "train", classes=["wave", "jack"], **own)
    assert train.class_names == held_out.class_names == ("jack", "wave") and len(train) == 6
    assert names(held_out, tmp_path / "val") == ["jack/person03.mp4"] and held_out.label(0) == 0
    plant(tmp_path / "val", ["jack/person01.mp4"])
    with pytest.raises(
        UserError, match="1 contents of the held-out videos in .*val are those of training .* 'person01'"
    ):
        parts(tmp_path / "train", classes=["wave", "jack"], **own)


def test_classes_without_a_training_video_are_told_once(tmp_path, capsys):
    plant(tmp_path, [*ACTIONS, "odd/person03.mp4"])
    for _ in range(2):
        parts(tmp_path, content_pattern=r"person\d+", held_out_contents=["person03"])
    assert capsys.readouterr().err == f"{tmp_path}: no training video is of the classes odd\n"
