"""A latent cache met again: taken where nothing has changed, continued where videos were added, refused otherwise."""

import hashlib
import json
import os
import pickle
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sprite_files import write_file
from test_latent_cache import build, files, make_autoencoder
from test_locks import FORK
from video_files import make_video

from autoencoder import AutoencoderVidTwin
from autoencoder.common.errors import UserError
from autoencoder.common.locks import LOCK_FILE, locked_folder
from autoencoder.data.folder import _draw
from autoencoder.data.sprites import characters_of
from autoencoder.data.video_io import ClipReader
from generator import cache_changes, cache_identity, cache_latents, latent_cache
from generator import train as train_command
from generator.cache_identity import BLOCK_BYTES, BLOCKS, VIDEOS, VideoTable, file_digest
from generator.config import CacheConfig
from generator.fit import _check_classes
from generator.latent_cache import INDEX, LatentCache, build_cache, fingerprint

TREE = ("jump/1.mp4", "jump/2.mp4", "run/1.mp4", "run/deep/2.mp4", "walk/1.mp4")


@pytest.fixture(scope="module")
def model() -> AutoencoderVidTwin:
    return make_autoencoder()


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> list[bytes]:
    """Six videos, all different."""
    folder = tmp_path_factory.mktemp("contents")
    return [make_video(folder / f"{n}.mp4", 20, 8, height=48 + 2 * n).read_bytes() for n in range(6)]


@pytest.fixture
def root(tmp_path, contents) -> Path:
    """Videos of three classes."""
    for name, content in zip(TREE, contents, strict=False):
        put(tmp_path / "videos" / name, content)
    hold_out(tmp_path / "videos", "run/9.mp4", contents[5])
    return tmp_path / "videos"


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def settings(root: Path, **more) -> dict:
    """A cache of all videos below a folder, or of a manifest there."""
    fixed = {"dataset": "folder", "data_root": str(root), "shard_size": 4, "max_bad_share": 1.0}
    return fixed | {"held_out_root": str(root.parent / "held-out")} | more


def hold_out(root: Path, name: str, content: bytes) -> None:
    """Make this the only held-out video."""
    shutil.rmtree(root.parent / "held-out", ignore_errors=True)
    put(root.parent / "held-out" / name, content)


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Sizes of the batches that are encoded."""
    whole, sizes = AutoencoderVidTwin.encode, []
    monkeypatch.setattr(
        AutoencoderVidTwin, "encode", lambda self, video: sizes.append(len(video)) or whole(self, video)
    )
    return sizes


def shards(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(path) for path in sorted(folder.glob("shard-*"))]


def by_path(cache: LatentCache) -> dict[tuple[str, int, int], tuple[str, torch.Tensor]]:
    """Class and latents by path, clip of the video, and whether mirrored."""
    table, _ = VideoTable.load(cache.folder)
    found = {}
    for place, (number, clip, mirrored) in enumerate(torch.cat([s["sources"] for s in shards(cache.folder)]).tolist()):
        path = table.listing.paths[int(table.places[number])]
        latents = cache.latents([place])
        values = torch.cat([latents.structure.flatten(), latents.dynamics.flatten()])
        found[path, clip, mirrored] = (cache.class_names[cache.labels[place]], values)
    return found


def no_video_is_opened(monkeypatch) -> None:
    def fail(*args, **kwargs):
        raise AssertionError("a video was opened")

    monkeypatch.setattr(ClipReader, "read", fail)
    monkeypatch.setattr(cache_identity, "file_digest", fail)


def rewrite(path: Path, content: bytes, same_time: bool = False) -> None:
    """Other content; the time of modification is later, or the same."""
    before = path.stat().st_mtime_ns
    path.write_bytes(content)
    time = before if same_time else before + 10**9
    os.utime(path, ns=(time, time))


def replace_by_one_of_the_same_size(root: Path, contents) -> None:
    path = root / "run/1.mp4"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    rewrite(path, bytes(data))


CHANGES = {
    "removed": (lambda root, contents: (root / "run/1.mp4").unlink(), r"1 removed \(run/1\.mp4\)\. "),
    "class removed": (
        lambda root, contents: shutil.rmtree(root / "jump"),
        r"2 removed \(jump/1\.mp4; jump/2\.mp4\), no class 'jump' any more",
    ),
    "replaced": (lambda root, contents: rewrite(root / "run/1.mp4", contents[5]), r"1 replaced \(run/1\.mp4\)"),
    "replaced at the same time": (
        lambda root, contents: rewrite(root / "run/deep/2.mp4", contents[5], same_time=True),
        r"1 replaced \(run/deep/2\.mp4\)",
    ),
    "a byte replaced": (replace_by_one_of_the_same_size, r"1 replaced \(run/1\.mp4\)"),
    "damaged": (lambda root, contents: rewrite(root / "walk/1.mp4", b""), r"1 replaced \(walk/1\.mp4\)"),
    "swapped": (
        lambda root, contents: [
            rewrite(root / "jump/1.mp4", contents[1]),
            rewrite(root / "jump/2.mp4", contents[0]),
        ],
        r"2 replaced \(jump/1\.mp4; jump/2\.mp4\)",
    ),
    "moved to another class": (
        lambda root, contents: (root / "run/1.mp4").rename(root / "jump/3.mp4"),
        r"1 removed \(run/1\.mp4\), 1 added",
    ),
    "class renamed": (
        lambda root, contents: ((root / "run").rename(root / "dash"), hold_out(root, "dash/9.mp4", contents[5])),
        r"2 removed \(run/1\.mp4; run/deep/2\.mp4\), no class 'run' any more, 2 added",
    ),
    "labels lost": (
        lambda root, contents: (put(root / "loose.mp4", contents[5]), hold_out(root, "9.mp4", contents[5])),
        r"5 of another class \(jump/1\.mp4, 'jump' there and None here; .*; \.\.\. \(5 in all\)\), no class 'jump', "
        "'run', 'walk'",
    ),
    "added and replaced": (
        lambda root, contents: (put(root / "run/3.mp4", contents[5]), rewrite(root / "run/1.mp4", contents[5])),
        r"1 replaced \(run/1\.mp4\), 1 added",
    ),
}


@pytest.mark.parametrize("is_complete", [True, False], ids=["complete", "unfinished"])
@pytest.mark.parametrize("change, message", CHANGES.values(), ids=CHANGES)
def test_other_videos_are_refused_by_name(model, root, contents, encoded, tmp_path, change, message, is_complete):
    config = settings(root)
    build(model, tmp_path / "cache", **config)
    if not is_complete:
        (tmp_path / "cache" / INDEX).unlink()
    before, encoded[:] = files(tmp_path / "cache"), []
    change(root, contents)
    with pytest.raises(UserError, match=message) as caught:
        build(model, tmp_path / "cache", **config)
    assert "\n" not in str(caught.value) and "--rebuild-cache" in str(caught.value)
    assert files(tmp_path / "cache") == before and not encoded

    config = CacheConfig(**config)
    rebuilt = build_cache(model, config, tmp_path / "cache", progress=False, rebuild=True)
    assert len(rebuilt) == len(build_cache(model, config, tmp_path / "fresh", progress=False))
    assert files(tmp_path / "cache") == files(tmp_path / "fresh")


@pytest.mark.parametrize(
    "text, message",
    [
        ("path,label,start,end\nrun/1.mp4,walk,,\njump/1.mp4,jump,0.5,2\n", "1 of another class (run/1.mp4, 'run' th"),
        ("path,label,start,end\nrun/1.mp4,run,0.1,\njump/1.mp4,jump,0.5,2\n", "1 with another start or end (run/1.mp4"),
        ("path,label,start,end\nrun/1.mp4,run,,\njump/1.mp4,jump,0.5,2.1\n", "1 with another start or end (jump/1.mp4"),
        ("path,start,label,end\nrun/1.mp4,,run,\njump/1.mp4,,jump,\n", "1 with another start or end (jump/1.mp4"),
        ("path,label,start,end\njump/1.mp4,jump,0.5,2\n", "1 removed (run/1.mp4)"),
    ],
)
def test_other_lines_of_a_manifest_are_refused_by_name(model, root, tmp_path, text, message):
    manifest = root / "list.csv"
    config = settings(root, data_root=str(manifest))
    rest = "walk/1.mp4,walk,,\nrun/deep/2.mp4,run,,\n"
    manifest.write_text("path,label,start,end\nrun/1.mp4,run,,\njump/1.mp4,jump,0.5,2\n" + rest)
    build(model, tmp_path / "cache", **config)
    rest = "walk/1.mp4,,walk,\nrun/deep/2.mp4,,run,\n" if text.startswith("path,start") else rest
    manifest.write_text(text + rest)
    with pytest.raises(UserError, match=re.escape(message)):
        build(model, tmp_path / "cache", **config)
    assert len(LatentCache(tmp_path / "cache")) == 4, "what is there stays readable"


def test_a_manifest_in_another_order_is_the_same(model, root, tmp_path, encoded):
    """Lines and columns are; a line may be there twice."""
    lines = [("run/1.mp4", "run", "", ""), ("jump/1.mp4", "jump", "0.5", "2"), *[("run/1.mp4", "run", "0", "2")] * 2]
    manifest, config = root / "list.csv", settings(root, data_root=str(root / "list.csv"))
    manifest.write_text("".join(",".join(line) + "\n" for line in [("path", "label", "start", "end"), *lines]))
    before = by_path(build(model, tmp_path / "cache", **config))
    encoded.clear()
    turned = [line[::-1] for line in [("path", "label", "start", "end"), *reversed(lines)]]
    manifest.write_text("".join(",".join(line) + "\n" for line in turned))
    build(model, tmp_path / "cache", **config)
    after = by_path(build(model, tmp_path / "cache", **config))
    assert not encoded and before.keys() == after.keys()
    assert all(torch.equal(before[key][1], after[key][1]) and before[key][0] == after[key][0] for key in before)


def test_contents_do_not_matter_to_latents_of_one_clip(model, root, tmp_path, encoded):
    manifest, config = root / "list.csv", settings(root, data_root=str(root / "list.csv"))
    manifest.write_text("path,label\nrun/1.mp4,run\njump/1.mp4,jump\n")
    build(model, tmp_path / "cache", **config)
    encoded.clear()
    manifest.write_text("path,label,content\nrun/1.mp4,run,ann\njump/1.mp4,jump,ann\n")
    assert len(build(model, tmp_path / "cache", **config)) == 2 and not encoded


def test_companions_of_another_content_are_refused_by_name(model, root, tmp_path, encoded, monkeypatch):
    manifest, config = root / "list.csv", settings(root, data_root=str(root / "list.csv"), companions=True)
    lines = ["run/1.mp4,run,ann\n", "jump/1.mp4,jump,ben\n", "jump/2.mp4,jump,ben\n", "walk/1.mp4,walk,ann\n"]

    def cached(folder: str, lines: list[str]) -> LatentCache:
        encoded.clear()
        manifest.write_text("".join(["path,label,content\n", *lines]))
        return build(model, tmp_path / folder, **config)

    cached("cache", lines[:3])
    assert len(cached("cache", lines)) == 4 and sum(encoded) == 2, "the clip that was added, and its companion"
    assert len(cached("cache", lines[::-1])) == 4 and not encoded
    with pytest.raises(UserError, match=r"1 of another content \(jump/1.mp4, 'ben' there and 'ann' here\)"):
        cached("cache", [line.replace("1.mp4,jump,ben", "1.mp4,jump,ann") for line in lines])
    with pytest.raises(UserError, match="4 of another content .*'ann' there and '' here"):
        cached("cache", [line.rpartition(",")[0] + ",\n" for line in lines])
    monkeypatch.setattr(cache_changes, "noted_listing", lambda config, clips: replace(clips.listing, contents=None))
    monkeypatch.setattr(latent_cache, "noted_listing", cache_changes.noted_listing)
    cached("earlier", lines)  # as a version left it that did not note contents
    monkeypatch.undo()
    assert len(cached("earlier", lines)) == 4


@pytest.mark.parametrize(
    "name, value",
    [
        ("sample_fps", 4.0),
        ("sample_fps", None),
        ("sampling", "stride"),
        ("crop", "center"),
        ("clips_per_video", 2),
        ("flip", True),
        ("companions", True),
        ("clip_seed", 1),
        ("max_videos", 3),
        ("split", "val"),
        ("held_out_root", None),
        ("classes", ["run", "walk"]),
        ("content_pattern", r"\w+/\d"),
    ],
)
def test_other_settings_are_refused_by_name(model, root, tmp_path, name, value):
    build(model, tmp_path / "cache", **settings(root))
    before = files(tmp_path / "cache")
    for is_complete in (True, False):
        if not is_complete:
            (tmp_path / "cache" / INDEX).unlink()
        there = "'given'" if name == "held_out_root" else repr(getattr(CacheConfig(**settings(root)), name))
        with pytest.raises(
            UserError, match=f"made from something else: .*{name}={there} there and {re.escape(repr(value))} here"
        ):
            build(model, tmp_path / "cache", **settings(root) | {name: value})
    before.pop(INDEX)
    assert files(tmp_path / "cache") == before


def test_parts_of_a_data_set_have_caches_of_their_own(tmp_path):
    """Of default folders, which stay where they were for the whole of a data set; the order of names is no matter."""
    choices = [{}, {"classes": ["A", "B"]}, {"classes": ["A"]}, {"held_out_contents": ["A", "B"]}]
    for name in ("ucf101", "folder"):
        more = [{"content_pattern": "A"}] if name == "folder" else []
        configs = [CacheConfig(dataset=name, **choice) for choice in (*choices, *more)]
        folders = [config.cache_folder("0" * 64) for config in configs]
        assert len(set(folders)) == len(folders) == len({str(config.settings) for config in configs})
        turned = CacheConfig(dataset=name, classes=["B", "A"])
        assert turned.settings == configs[1].settings and turned.cache_folder("0" * 64) == folders[1]
    assert CacheConfig(dataset="ucf101").cache_folder("0" * 64).name == "ucf101-000000000000"
    assert CacheConfig(dataset="ucf101", split="val").cache_folder("0" * 64).name == "ucf101-val-000000000000"
    small = CacheConfig(dataset="ucf101", classes=["b", "a"]).settings
    assert small == CacheConfig(dataset="ucf101", classes=["A", "B"]).settings
    whole = CacheConfig(dataset="folder", data_root=str(tmp_path / "a"))
    source = {"data_root": str(tmp_path / "a"), "held_out_root": None, "held_out_share": 0.05}
    digest = hashlib.sha256(json.dumps(source).encode()).hexdigest()[:8]
    assert whole.cache_folder("0" * 64).name == f"folder-{digest}-000000000000"


def test_a_cache_of_the_whole_does_not_serve_a_part(model, root, tmp_path, encoded):
    """A cache of an earlier version, which did not note the choice, is one of the whole."""
    pattern = settings(root, held_out_root=None, content_pattern="[0-9]", held_out_contents=["2"])
    cache = build(model, tmp_path / "part", **pattern)
    assert {key[0] for key in by_path(cache)} == {name for name in TREE if "2" not in name}
    assert {key[0] for key in by_path(build(model, tmp_path / "val", **pattern, split="val"))} == {
        name for name in TREE if "2" in name
    }
    with pytest.raises(UserError, match=r"held_out_contents=\['2'\] there and \['1'\] here"):
        build(model, tmp_path / "part", **pattern | {"held_out_contents": ["1"]})
    run_only = build(model, tmp_path / "run", **settings(root, classes=["run"]))
    assert run_only.class_names == ("run",) and len(run_only) == 2
    build(model, tmp_path / "whole", **settings(root))
    forget(tmp_path / "whole", cache_identity.UNNOTED)
    encoded.clear()
    assert len(build(model, tmp_path / "whole", **settings(root))) == len(TREE) and not encoded
    with pytest.raises(UserError, match=r"classes=None there and \['run'\] here"):
        build(model, tmp_path / "whole", **settings(root, classes=["run"]))


def forget(folder: Path, names) -> None:
    """Take settings out of what a cache notes of itself."""
    table, identity = VideoTable.load(folder)
    identity = {name: value for name, value in identity.items() if name not in names}
    table.save(folder, identity)
    index = json.loads((folder / INDEX).read_text()) | {"identity": identity}
    (folder / INDEX).write_text(json.dumps(index))


def test_what_decides_nothing_is_not_asked(model, root, tmp_path, encoded):
    """Workers, the tolerance of bad files, another name of a decoder, the root of held-out videos for training ones; of
    shapes all that is about files."""
    other = root.parent / "other"
    shutil.copytree(root.parent / "held-out", other)
    build(model, tmp_path / "cache", **settings(root))
    build(model, tmp_path / "shapes", max_videos=4)
    encoded.clear()
    more = {"num_workers": 1, "max_bad_share": 0.5, "held_out_root": str(other), "decoder": "pyav"}
    build(model, tmp_path / "cache", **settings(root, **more))
    build(model, tmp_path / "shapes", max_videos=4, sample_fps=3.0, crop="center", shard_size=8)
    assert not encoded
    with pytest.raises(UserError, match="decoder='pyav' there and 'decord' here"):
        build(model, tmp_path / "cache", **settings(root, decoder="decord"))


def test_held_out_and_training_latents_never_mix(model, root, tmp_path, contents):
    """The default folders differ by what is held out, and each cache holds what it says."""
    shared, hash_ = {"dataset": "folder", "data_root": str(root)}, fingerprint(model)
    configs = {
        "train, all": CacheConfig(**shared, held_out_root=str(root.parent / "held-out")),
        "val, other": CacheConfig(**shared, split="val", held_out_root=str(root.parent / "held-out")),
        "train, share": CacheConfig(**shared),
        "val, share": CacheConfig(**shared, split="val"),
    }
    shutil.copytree(root.parent / "held-out", tmp_path / "other")
    configs["val, another"] = CacheConfig(**shared, split="val", held_out_root=str(tmp_path / "other"))
    configs["train, other root"] = CacheConfig(dataset="folder", data_root=str(tmp_path / "other"))
    folders = {name: config.cache_folder(hash_) for name, config in configs.items()}
    assert len(set(folders.values())) == len(folders)
    caches = {}
    for name in list(configs)[:4]:
        caches[name] = set(by_path(build_cache(model, configs[name], tmp_path / folders[name], progress=False)))
    assert {key[0] for key in caches["train, all"]} == set(TREE) and caches["val, other"] == {("run/9.mp4", 0, 0)}
    assert not caches["train, share"] & caches["val, share"] and caches["val, share"]
    with pytest.raises(UserError, match="held_out_root=.*other' here"):
        build_cache(model, configs["val, another"], tmp_path / folders["val, other"])
    with pytest.raises(
        UserError, match="held_out_root='given' there and None here, held_out_share=None there and 0.05"
    ):
        build_cache(model, configs["train, share"], tmp_path / folders["train, all"])


def test_nothing_changed_opens_no_video(model, root, tmp_path, encoded, monkeypatch):
    config = settings(root)
    build(model, tmp_path / "cache", **config)
    before = files(tmp_path / "cache")
    encoded.clear()
    no_video_is_opened(monkeypatch)
    os.chmod(tmp_path / "cache", 0o500)  # nothing is written, either
    try:
        build(model, tmp_path / "cache", **config)
    finally:
        os.chmod(tmp_path / "cache", 0o700)
    assert files(tmp_path / "cache") == before and not encoded


def test_files_that_were_only_touched_are_the_same(model, root, tmp_path, encoded, monkeypatch):
    config = settings(root)
    build(model, tmp_path / "cache", **config)
    encoded.clear()
    for path in (root / "run/1.mp4", root / "walk/1.mp4"):
        rewrite(path, path.read_bytes())
    build(model, tmp_path / "cache", **config)
    no_video_is_opened(monkeypatch)  # their new times are noted
    build(model, tmp_path / "cache", **config)
    assert not encoded


@pytest.mark.parametrize("is_complete", [True, False], ids=["complete", "unfinished"])
@pytest.mark.parametrize("more", [{}, {"clips_per_video": 3, "flip": True}, {"max_videos": 100}])
def test_only_added_videos_are_encoded(model, root, contents, tmp_path, encoded, capsys, more, is_complete):
    """One in a class before the others, one between: classes get the ids and every video the clips of a fresh cache."""
    config = settings(root, **more)
    views = more.get("clips_per_video", 1) * (1 + more.get("flip", False))
    build(model, tmp_path / "cache", **config)
    if not is_complete:
        (tmp_path / "cache" / INDEX).unlink()
        last = sorted((tmp_path / "cache").glob("shard-*"))[-1]
        last.unlink()
    left, before = files(tmp_path / "cache"), sum(len(shard["labels"]) for shard in shards(tmp_path / "cache"))
    encoded.clear()
    put(root / "crawl/1.mp4", contents[4])
    put(root / "run/0.mp4", contents[5])
    capsys.readouterr()
    cache = build(model, tmp_path / "cache", **config)
    assert "2 videos were added; they are encoded, and the others kept" in capsys.readouterr().out
    assert sum(encoded) == (len(TREE) + 2) * views - before
    assert cache.class_names == ("crawl", "jump", "run", "walk")
    kept = files(tmp_path / "cache")
    assert all(kept[name] == content for name, content in left.items() if name.startswith("shard-"))

    found, fresh = by_path(cache), by_path(build(model, tmp_path / "fresh", **config))
    assert found.keys() == fresh.keys() and len(cache) == len(fresh)
    for (path, clip, mirrored), (name, values) in found.items():
        assert name == path.split("/")[0] == fresh[path, clip, mirrored][0]
        if clip == 0:  # the other clips are random ones
            torch.testing.assert_close(values, fresh[path, clip, mirrored][1])
    encoded.clear()
    build(model, tmp_path / "cache", **config)
    put(root / "run/4.mp4", contents[5])
    assert not encoded and len(build(model, tmp_path / "cache", **config)) == len(cache) + views


def test_a_choice_among_more_videos_is_encoded_anew(model, root, contents, tmp_path, capsys):
    config = settings(root, max_videos=3)
    build(model, tmp_path / "cache", **config)
    put(root / "jump/0.mp4", contents[5])
    capsys.readouterr()
    build(model, tmp_path / "cache", **config)
    assert "1 videos were added; max_videos=3 are chosen anew and encoded" in capsys.readouterr().out
    build(model, tmp_path / "fresh", **config)
    assert files(tmp_path / "cache") == files(tmp_path / "fresh")


def test_a_new_class_of_the_other_split_changes_the_ids(model, root, contents, tmp_path, encoded):
    """No training video is added, but the classes are those of both splits."""
    held_out = [f"{name}/{n}.mp4" for name in ("jump", "crawl") for n in range(200) if _draw(f"{name}/{n}.mp4") < 0.05]
    config = {"dataset": "folder", "data_root": str(root)}
    put(root / held_out[0], contents[5])
    before = by_path(build(model, tmp_path / "cache", **config))
    put(root / held_out[-1], contents[5])
    encoded.clear()
    cache = build(model, tmp_path / "cache", **config)
    after = by_path(cache)
    assert not encoded and cache.class_names == ("crawl", "jump", "run", "walk") and after.keys() == before.keys()
    assert all(after[key][0] == before[key][0] == key[0].split("/")[0] for key in after)


def test_files_that_are_not_encoded_yet_may_change(model, root, contents, tmp_path):
    config = settings(root, shard_size=1)
    build(model, tmp_path / "cache", **config)
    (tmp_path / "cache" / INDEX).unlink()
    (tmp_path / "cache" / "shard-00003.safetensors").unlink()
    rewrite(root / TREE[3], contents[5])
    build(model, tmp_path / "cache", **config)
    build(model, tmp_path / "fresh", **config)
    assert files(tmp_path / "cache") == files(tmp_path / "fresh")


def test_caches_of_earlier_versions(model, root, tmp_path, encoded):
    """Shapes are the same for sure; of files it is not known which ones they were."""
    for folder, config in (
        (tmp_path / "shapes", {"max_videos": 8, "shard_size": 4}),
        (tmp_path / "videos-cache", settings(root)),
    ):
        build(model, folder, **config)
        identity = CacheConfig(**config).settings | {"sample_fps": 8.0, "data_root": None, "files": "0123"}
        for name in ("decoder", "held_out_root", "held_out_share", *cache_identity.UNNOTED):
            identity.pop(name, None)
        identity |= {"autoencoder": fingerprint(model), "shard_size": 4}
        for number, tensors in enumerate(shards(folder)):
            latent_cache.write_shard(folder, number, tensors, identity)
        index = json.loads((folder / INDEX).read_text()) | {"identity": identity}
        (folder / INDEX).write_text(json.dumps(index))
        (folder / VIDEOS).unlink(missing_ok=True)
    encoded.clear()
    assert len(build(model, tmp_path / "shapes", max_videos=8, shard_size=4)) == 8
    (tmp_path / "shapes" / INDEX).unlink()
    assert len(build(model, tmp_path / "shapes", max_videos=8, shard_size=4)) == 8 and not encoded
    with pytest.raises(UserError, match="companions=False there and True here"):
        build(model, tmp_path / "shapes", max_videos=8, shard_size=4, companions=True)
    for _ in ("complete", "unfinished"):
        with pytest.raises(UserError, match="videos-cache holds latents of an earlier version.*--rebuild-cache"):
            build(model, tmp_path / "videos-cache", **settings(root))
        if (tmp_path / "videos-cache" / INDEX).exists():
            assert len(LatentCache(tmp_path / "videos-cache")) == len(TREE), "it stays readable"
        (tmp_path / "videos-cache" / INDEX).unlink(missing_ok=True)


def test_a_cache_outlives_its_videos(model, root, tmp_path, capsys):
    build(model, tmp_path / "cache", **settings(root))
    root.rename(tmp_path / "elsewhere")
    assert len(build(model, tmp_path / "cache", **settings(root))) == len(TREE)
    assert f"{root} is not there: the latents in {tmp_path / 'cache'} are taken" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="no such folder"):
        build(model, tmp_path / "another", **settings(root))


def test_a_run_waits_for_another_one_that_makes_the_cache(model, root, tmp_path, encoded, capsys):
    """The other one's half-written files stay, and its cache is taken."""
    config = settings(root)
    build(model, tmp_path / "made", **config)
    encoded.clear()
    folder = tmp_path / "cache"
    ours, theirs = FORK.Pipe()

    def make_as_another_run() -> None:
        with locked_folder(folder, keep_file=False):
            (folder / ".shard-00000.1.tmp.safetensors").touch()
            theirs.send("begun")
            theirs.recv()
            (folder / ".shard-00000.1.tmp.safetensors").unlink()
            for path in (tmp_path / "made").iterdir():
                shutil.copy2(path, folder / path.name)

    other = FORK.Process(target=make_as_another_run)
    other.start()
    ours.recv()
    waits, made = threading.Event(), []

    def hear(line: str, **_) -> None:
        made.append(line)
        waits.set()

    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(latent_cache, "print", hear, raising=False)
    waiting = threading.Thread(target=lambda: made.append(build(model, folder, **config)))
    waiting.start()
    assert waits.wait(60) and (folder / ".shard-00000.1.tmp.safetensors").exists()
    ours.send("go on")
    waiting.join()
    other.join()
    monkeypatch.undo()
    assert other.exitcode == 0 and not encoded
    assert made[0].startswith(f"{folder} is in use by process {other.pid} on ") and len(made[1]) == len(TREE)
    assert files(folder) == files(tmp_path / "made") and LOCK_FILE not in files(folder)


def test_digests_of_large_files(tmp_path):
    """Every part of a file of up to 16 MiB counts, and the beginning, the end and the size of a larger one."""
    data = np.random.default_rng(0).bytes(BLOCKS * BLOCK_BYTES)
    path = tmp_path / "file"

    def digest(content: bytes) -> str:
        path.write_bytes(content)
        return file_digest(path)

    assert (
        len({digest(data), digest(data[:-1]), digest(data[:999] + b"x" + data[1000:]), digest(data[:-1] + b"x")}) == 4
    )
    large = data + data[:BLOCK_BYTES]
    assert digest(large) == digest(large)
    assert len({digest(large), digest(large + b"x"), digest(b"x" + large[1:]), digest(large[:-1] + b"x")}) == 4
    assert file_digest(tmp_path / "nothing") == file_digest(tmp_path) == file_digest("nul\0") == ""
    os.mkfifo(tmp_path / "pipe")
    assert file_digest(tmp_path / "pipe") == ""


def test_a_cache_is_sent_to_a_process_by_its_folder(model, tmp_path):
    cache = build(model, tmp_path, max_videos=8, shard_size=4)
    sent = pickle.dumps(cache)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert torch.equal(again.labels, cache.labels)
    assert torch.equal(again.latents([5, 0]).structure, cache.latents([5, 0]).structure)


def test_classes_of_both_caches_must_agree(model, root, tmp_path):
    cache = build(model, tmp_path / "cache", **settings(root))
    held_out = build(model, tmp_path / "val", **settings(root, split="val"))
    _check_classes(cache, held_out)
    held_out.class_names = ("run",)
    with pytest.raises(UserError, match=r"val are of the classes 'run', those in .* of 'jump', 'run', 'walk'"):
        _check_classes(cache, held_out)


def test_the_commands_rebuild_when_asked(model, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("model")
    flags = ["--dataset=folder", f"--data-root={root}", "--autoencoder=model", "--flip=false", "--num-workers=0"]
    flags += ["--output-dir=cache", "--device=cpu", "--max-bad-share=1"]
    cache_latents.main(flags)
    rewrite(root / "walk/1.mp4", (root / "run/1.mp4").read_bytes())
    (root / "jump/1.mp4").unlink()
    with pytest.raises(UserError, match="--rebuild-cache"):
        cache_latents.main(flags)
    cache_latents.main([*flags, "--rebuild-cache"])
    cache_latents.main(flags)

    run = ["--dataset=folder", f"--data-root={root}", "--autoencoder=model", "--output-dir=run", "--rebuild-cache"]
    config, _, _, text = train_command.parse(run)
    assert config.rebuild_cache and "rebuild_cache: false" in text


# sprites, which are one file


def test_a_cache_of_sprites_knows_its_file(model, tmp_path, encoded, capsys):
    path = write_file(tmp_path / "sprites.npz", characters_of("train")[:1])
    config = {"dataset": "sprites", "data_root": str(path), "shard_size": 4}
    cache = build(model, tmp_path / "cache", **config)
    assert len(cache) == 9 and cache.labels.tolist() == list(range(9)) and cache.class_names[3] == "spellcard_front"
    assert CacheConfig(**config).cache_folder("0" * 64).name == "sprites-000000000000"
    encoded.clear()
    path.rename(tmp_path / "moved.npz")
    build(model, tmp_path / "cache", **config | {"data_root": str(tmp_path / "moved.npz")})
    assert not capsys.readouterr().out
    build(model, tmp_path / "cache", **config)
    assert "sprites.npz is not there: the latents" in capsys.readouterr().out and not encoded
    write_file(path, characters_of("train")[1:2])
    for is_complete in (True, False):
        if not is_complete:
            (tmp_path / "cache" / INDEX).unlink()
        with pytest.raises(UserError, match=r"made from something else: sprites='\w{32}' there and '\w{32}' here"):
            build(model, tmp_path / "cache", **config)
    assert not encoded
