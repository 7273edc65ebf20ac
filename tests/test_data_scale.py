"""Long lists, long videos, many workers: what data at scale must not cost, and which clips come when."""

import importlib.util
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from video_files import make_video, numbers, turn_quarter

import benchmarks.data
import benchmarks.work.data
from autoencoder.data import VideoFolder, decoders, video_io
from autoencoder.data.frame_index import index_frames
from autoencoder.data.listing import PathTable, read_manifest
from autoencoder.data.stream import PositionSampler, TrainingClips, collate
from autoencoder.data.video_io import ClipReader, resize_and_crop, resized

CLIPS = Path(__file__).parents[2] / "shared" / "clips"
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"{CLIPS} is absent")
needs_decord = pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="decord is not installed")
needs_proc = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="no /proc/self/smaps_rollup")
MILLION = 1_000_000

# Reads a manifest in a process of its own and prints what that took: {what: bytes, or names of files}.
MEASURE = """
import json, os, resource, sys
from pathlib import Path
from autoencoder.data import VideoFolder

def memory(name):
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":"))

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

touched, plain_stat = set(), os.stat
sys.addaudithook(lambda event, args: event in ("open", "os.listdir", "os.scandir") and touched.add(str(args[0])))
os.stat = lambda path, *args, **options: (touched.add(str(path)), plain_stat(path, *args, **options))[1]
before, peak_before = memory("Rss"), peak()
touched.clear()
data = VideoFolder(sys.argv[1], 16, 32, val_share=0.0)
result = {"count": len(data), "classes": len(data.class_names)}
result["touched"] = [name for name in touched if name.startswith(str(Path(sys.argv[1]).parent))]
result |= {"growth": memory("Rss") - before, "peak": peak() - peak_before}
result["sample"] = [data.source(987_654), data.class_names[data.label(987_654)], data._window(987_654)]
read_end, write_end = os.pipe()
if os.fork() == 0:
    private = memory("Private_Dirty")
    total = sum(len(data.source(i)) + data.label(i) for i in range(0, len(data), 20))
    os.write(write_end, str(memory("Private_Dirty") - private).encode())
    os._exit(0)
os.wait()
result["worker"] = int(os.read(read_end, 100))
print(json.dumps(result))
"""


@needs_proc
def test_a_million_lines_stay_small_and_touch_no_video(tmp_path):
    manifest = tmp_path / "list.csv"
    with open(manifest, "w") as file:
        file.write("path,label,start,end,content\n")
        rows = (f"video-{i:07}.mp4,class {i % 400:03},{i % 60},,group {i // 10}\n" for i in range(MILLION))
        file.writelines(f"part-{i % 1000:03}/{row}" for i, row in enumerate(rows))
    text = MILLION * len("part-000/video-0000000.mp4")
    arguments = [sys.executable, "-c", MEASURE, str(manifest)]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    result = json.loads(run.stdout)
    print(result)
    assert (result["count"], result["classes"]) == (MILLION, 400)
    path = str(tmp_path / "part-654/video-0987654.mp4")
    assert result["sample"] == [path, "class 054", [float(987_654 % 60), float("inf")]]
    assert set(result["touched"]) == {str(manifest)}
    needed = text + MILLION * (8 + 4 + 16 + 8)  # the place in the text, the label, the window, the content
    assert result["growth"] < 1.5 * needed, "Python strings alone would take another 75 bytes a line"
    assert result["peak"] < 4 * needed
    assert result["worker"] < needed / 3, "what a forked worker copies when it looks at every page of the list"


def test_paths_of_any_length_and_bytes():
    paths = ["a.mp4", "b/" + "long" * 1000 + ".mp4", "", "ü/ñ.mkv", os.fsdecode(b"\xff.mp4")]
    table = PathTable(iter(paths))
    assert list(table) == paths and len(table) == 5 and table[-1] == paths[-1]
    assert list(table.select(np.array([True, False, False, True, True]))) == [paths[i] for i in (0, 3, 4)]
    assert list(table.select(np.zeros(5, dtype=bool))) == [] and list(PathTable()) == []
    with pytest.raises(IndexError):
        table[5]


def test_columns_that_are_not_there_cost_nothing(tmp_path):
    manifest = tmp_path / "list.csv"
    manifest.write_bytes(b"path\n./a//b.mp4\n\xff.mp4\n")
    listing = read_manifest(manifest)
    assert list(listing.paths) == ["a/b.mp4", os.fsdecode(b"\xff.mp4")]
    assert listing.labels is None and listing.windows is None and listing.contents is None
    assert listing.class_names == ()
    splits = [VideoFolder(manifest, 16, 32, split=split, val_share=0.5) for split in ("train", "val")]
    assert [len(split) for split in splits] == [1, 1], "a path that is no UTF-8 falls into a split too"


def test_a_line_that_is_no_csv_is_named(tmp_path):
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"path\na.mp4\n{'x' * 200_000}\n")
    with pytest.raises(ValueError, match=r"list.csv, line \d: .*field"):
        VideoFolder(manifest, 16, 32)


# reading no more than a clip needs


class Counted:
    """An open container that counts the frames taken out of it."""

    def __init__(self, container, counts: list[int]):
        self.container, self.counts = container, counts

    def __getattr__(self, name):
        return getattr(self.container, name)

    def __enter__(self):
        self.container.__enter__()
        return self

    def __exit__(self, *args):
        return self.container.__exit__(*args)

    def decode(self, stream):
        self.counts.append(0)
        for frame in self.container.decode(stream):
            self.counts[-1] += 1
            yield frame


@pytest.mark.parametrize(
    "sample_fps, start, expected",
    [
        (25.0, 0.8, [3]),  # starts at a key frame: 20 to 22
        (25.0, 1.0, [8]),  # decoding starts at frame 20, for 25 to 27
        (12.5, 1.0, [10]),  # 25, 27, 29
        (12.5, 1.04, [9, 1]),  # 26, 28, 30: the last is a key frame itself
        (25.0, 1.12, [11]),  # 28, 29, 30: nothing to spare
        (2.5, 0.2, [6, 6, 6]),  # 5, 15, 25: each is reached from its own key frame
        (2.5, 0.0, [1, 1, 1]),  # 0, 10, 20
    ],
)
def test_decoding_starts_at_key_frames_and_ends_at_the_last_frame(tmp_path, monkeypatch, sample_fps, start, expected):
    path = make_video(tmp_path / "video.mp4", options={"g": "10", "bf": "2", "x264-params": "scenecut=0"})
    assert np.flatnonzero(index_frames(path).is_key).tolist() == [0, 10, 20, 30, 40]
    counts = []
    opened = decoders.open_video
    monkeypatch.setattr(decoders, "open_video", lambda path: Counted(opened(path), counts))
    reader = ClipReader(3, sample_fps=sample_fps, decoder="pyav")
    first, step = round(start * 25), round(25 / sample_fps)
    clip = reader.read(path, start=start, end=start + 2 * step / 25 + 0.041)
    assert numbers(clip) == [first, first + step, first + 2 * step]
    assert counts == expected


@needs_decord
def test_decord_is_asked_once_for_what_is_shown(tmp_path, monkeypatch):
    import decord

    path, opened, asked = make_video(tmp_path / "video.mp4", height=192, width=192), [], []

    class Reader(decord.VideoReader):
        def __init__(self, path, **options):
            opened.append(options["num_threads"])
            super().__init__(path, **options)

        def get_batch(self, positions):
            asked.append(list(positions))
            return super().get_batch(positions)

    monkeypatch.setattr(decord, "VideoReader", Reader)
    assert len(ClipReader(6, sample_fps=50.0, decoder="decord").read(path)) == 6
    assert opened == [1]
    assert [len(positions) for positions in asked] == [3], "each frame is shown for two samples"


def test_frames_shown_twice_are_resized_once(tmp_path, monkeypatch):
    path, counts = make_video(tmp_path / "video.mp4"), []

    def resize(frames, size):
        counts.append(len(frames))
        return resized(frames, size)

    monkeypatch.setattr(video_io, "resized", resize)
    clip = ClipReader(8, size=32, sample_fps=50.0).read(path)
    got = (clip[:, 2:10, 2:10].double().mean(dim=(1, 2, 3)) - 20) / 4
    assert [round(float(n - got[0])) for n in got] == [0, 0, 1, 1, 2, 2, 3, 3] and counts == [4]


@needs_decord
def test_small_pictures_are_turned_upright_too(tmp_path):
    path = make_video(tmp_path / "video.mp4", height=48, width=176)
    assert index_frames(path).decord_obstacle is None
    turn_quarter(path)
    assert "fourth colour" in index_frames(path).decord_obstacle
    assert ClipReader(2).read(path).shape == (2, 176, 48, 3)


# which clips


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Six videos and two files that are none."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(6):
        make_video(root / f"video{number}.mp4", count=20 + number)
    for name in ("bad.mp4", "worse.mp4"):
        (root / name).write_text("no video")
    return root


def run(videos: Path, seed: int, num_workers: int, rank: int = 0, world_size: int = 1) -> list[dict]:
    """Three batches as a fresh process would see them."""
    clips = TrainingClips(VideoFolder(videos, 4, 32, sample_fps=None, crop="random", val_share=0.0), seed, flip=True)
    sampler = PositionSampler(len(clips), 4, seed, rank=rank, world_size=world_size)
    context = "fork" if num_workers else None
    loader = DataLoader(
        clips, batch_sampler=sampler, num_workers=num_workers, collate_fn=collate, multiprocessing_context=context
    )
    return list(islice(loader, 3))


def pixels(batches: list[dict]) -> torch.Tensor:
    return torch.cat([batch["sample"]["video"] for batch in batches])


def test_one_seed_is_one_run_whatever_reads_it(videos):
    torch.manual_seed(1)
    one = run(videos, seed=3, num_workers=0)
    torch.manual_seed(2)
    other = run(videos, seed=3, num_workers=2)
    assert torch.equal(pixels(one), pixels(other))
    assert [batch["tried"] for batch in one] == [batch["tried"] for batch in other]
    assert not torch.equal(pixels(one), pixels(run(videos, seed=4, num_workers=0)))


def test_ranks_see_the_parts_of_the_whole(videos):
    whole = pixels(run(videos, seed=3, num_workers=0))
    ranks = [pixels(run(videos, 3, 1, rank=rank, world_size=2)).unflatten(0, (3, 2)) for rank in range(2)]
    assert torch.equal(torch.cat(ranks, dim=1).flatten(0, 1), whole)


@pytest.mark.parametrize("num_items, batch_size, world_size", [(24, 8, 2), (30, 12, 4), (7, 6, 3)])
def test_ranks_together_repeat_nothing_in_an_epoch(num_items, batch_size, world_size):
    steps = 3 * num_items  # whole epochs
    samplers = [PositionSampler(num_items, batch_size, 0, 0, rank, world_size) for rank in range(world_size)]
    shown = sorted(place for sampler in samplers for batch in islice(sampler, steps) for place in batch)
    assert [position for position, _ in shown] == list(range(steps * batch_size))
    for first in range(0, len(shown), num_items):
        assert sorted(index for _, index in shown[first : first + num_items]) == list(range(num_items))


# the benchmark


@needs_decord
def test_the_benchmark_names_what_it_cannot_read(videos, tmp_path, capsys):
    output = tmp_path / "data.json"
    sizes = ["--num-frames", "4", "--size", "32", "--sample-fps", "25", "--rounds", "2", "--sampling", "time"]
    benchmarks.data.main(["--videos", str(videos), "--output", str(output), *sizes])
    report = json.loads(output.read_text())
    assert report["benchmark"] == "data" and report["threads"] == 1
    assert [Path(row["file"]).name for row in report["results"]] == [f"video{i}.mp4" for i in range(6)]
    for row in report["results"]:
        assert row.keys() == benchmarks.work.data.LoaderResult.__dataclass_fields__.keys()
        assert (row["sampling"], row["width"], row["height"], row["rounds"]) == ("time", 64, 48, 2)
        assert 0 < row["lowest_ratio"] <= row["ratio"] and 4 <= row["decoded_frames"] <= 14
        assert row["clips_per_second"] > 0 and row["decord_clips_per_second"] > 0 and row["index_seconds"] > 0
    printed = capsys.readouterr()
    assert "bad.mp4: Invalid data" in printed.err and "worse.mp4: Invalid data" in printed.err
    assert "video0.mp4" in printed.out


@needs_decord
@needs_clips
@pytest.mark.parametrize("sampling", ["time", "stride"])
def test_loader_and_decord_decode_the_same_frames(sampling):
    """The pixels of the loader are those that the benchmark has decord decode, resized."""
    import decord

    for path in sorted(CLIPS.glob("*.mp4")):
        reader = ClipReader(3, 32, sampling=sampling)
        positions = reader.choose(path, index_frames(path), np.random.default_rng(0))
        frames = torch.from_numpy(decord.VideoReader(str(path), num_threads=1).get_batch(positions).asnumpy())
        assert torch.equal(resize_and_crop(frames, 32), reader.read(path, np.random.default_rng(0))), path.name


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--sampling", "time,all"], "sampling must be of time, stride, got 'all'"),
        (["--rounds", "0"], "rounds must be at least 1, got 0"),
    ],
)
def test_wrong_flags_of_the_benchmark(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        benchmarks.data.main(["--videos", str(tmp_path), *flags])
