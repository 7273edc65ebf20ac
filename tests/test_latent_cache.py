"""The latent cache: what it holds, that it continues bit for bit, and what it refuses."""

import json
import multiprocessing
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from video_files import make_video

from autoencoder import AutoencoderVidTwin
from autoencoder.common import commands
from autoencoder.common.errors import UserError
from autoencoder.common.run import LAST_AUTOENCODER, write_pointer
from autoencoder.common.seeding import derive_seed
from autoencoder.data import ClipDataset, UnreadableVideo, VideoFolder, to_video
from autoencoder.data.clips import readable_companion
from autoencoder.data.shapes import Shapes
from benchmarks.work import cache as cache_benchmark
from generator import cache_latents
from generator.config import CacheConfig
from generator.latent_cache import ENCODE_BATCH_SIZE, INDEX, LatentCache, build_cache, fingerprint

MODEL = {
    "num_frames": 8,
    "sample_size": 32,
    "patch_size": 8,
    "hidden_size": 16,
    "num_layers": 1,
    "num_attention_heads": 2,
    "structure_queries": 3,
    "structure_channels": 2,
    "structure_downsamples": 1,
    "structure_conv_channels": 8,
    "dynamics_channels": 3,
    "dynamics_downsamples": 0,
    "qformer_hidden_size": 8,
    "qformer_num_layers": 1,
    "qformer_num_attention_heads": 2,
    "qformer_intermediate_size": 8,
    "qformer_dropout": 0.5,
}


def make_autoencoder(seed: int = 0) -> AutoencoderVidTwin:
    torch.manual_seed(seed)
    return AutoencoderVidTwin(**MODEL)


@pytest.fixture(scope="module")
def model() -> AutoencoderVidTwin:
    return make_autoencoder()


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """30 unlabelled videos of 20 frames, one of which is no video."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(5):
        make_video(root / f"clip-{number}.mp4", count=20, fps=8)
    data = (root / "clip-0.mp4").read_bytes()
    for number in range(5, 29):
        (root / f"clip-{number}.mp4").write_bytes(data)
    (root / "clip-29.mp4").write_bytes(b"no video at all")
    return root


def build(model: AutoencoderVidTwin, folder: Path, **settings) -> LatentCache:
    return build_cache(model, CacheConfig(**settings), folder, progress=False)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def sources(folder: Path) -> torch.Tensor:
    return torch.cat([load_file(path)["sources"] for path in sorted(folder.glob("shard-*"))])


@torch.no_grad()
def encode(model: AutoencoderVidTwin, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean = model.eval().encode(to_video(frames[None])).latent_dist.mode()
    return mean.structure[0], mean.dynamics[0]


def test_holds_means_labels_and_statistics(model, tmp_path):
    cache = build(model.train(), tmp_path, max_videos=50, shard_size=20)
    assert len(cache) == 50 and sorted(files(tmp_path)) == [INDEX, *(f"shard-0000{n}.safetensors" for n in range(3))]
    chosen = sources(tmp_path)
    assert len(set(chosen[:, 0].tolist())) == 50 and not chosen[:, 1:].any()
    assert cache.labels.tolist() == [int(index) % 10 for index in chosen[:, 0]]
    assert cache.class_names == Shapes.class_names

    latents = cache.latents([49, 0, 20, 19])
    for row, index in enumerate([49, 0, 20, 19]):
        structure, dynamics = encode(model, Shapes(8, 32).clip(int(chosen[index, 0])))
        torch.testing.assert_close(latents.structure[row], structure)
        torch.testing.assert_close(latents.dynamics[row], dynamics)
    everything = cache.latents(range(50))
    for name, values in (("structure", everything.structure), ("dynamics", everything.dynamics)):
        channels = values.double().transpose(0, 1).flatten(1)
        np.testing.assert_allclose(cache.statistics[f"{name}_mean"], channels.mean(1), rtol=1e-6)
        np.testing.assert_allclose(cache.statistics[f"{name}_std"], channels.std(1, correction=0), rtol=1e-6)
    with pytest.raises(IndexError, match="clip 50 of a cache of 50"):
        cache.latents([50])


@pytest.mark.parametrize("stop_at", [0, 1, 2, 4])
def test_continues_where_it_was_stopped(model, tmp_path, monkeypatch, stop_at):
    """Two batches to a shard: what is in a finished shard is not encoded again, and the files are the same bytes."""
    settings = {"max_videos": 5 * ENCODE_BATCH_SIZE, "shard_size": 2 * ENCODE_BATCH_SIZE}
    build(model, tmp_path / "unbroken", **settings)
    whole_encode, calls = AutoencoderVidTwin.encode, []

    def stopping(self, video):
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(len(video))
        return whole_encode(self, video)

    monkeypatch.setattr(AutoencoderVidTwin, "encode", stopping)
    with pytest.raises(KeyboardInterrupt):
        build(model, tmp_path / "broken", **settings)
    with pytest.raises(FileNotFoundError, match=f"no complete latent cache: {INDEX} is missing.*cache_latents"):
        LatentCache(tmp_path / "broken")
    before = len(calls)
    (tmp_path / "broken").mkdir(exist_ok=True)
    (tmp_path / "broken" / ".shard-00001.123.tmp.safetensors").write_bytes(b"half a shard")

    stop_at = 100
    cache = build(model, tmp_path / "broken", **settings)
    assert len(calls) - before == 5 - before // 2 * 2
    assert files(tmp_path / "broken") == files(tmp_path / "unbroken") and len(cache) == 5 * ENCODE_BATCH_SIZE

    build(model, tmp_path / "broken", **settings)
    assert len(calls) - before == 5 - before // 2 * 2, "a complete cache is only opened"


def test_refuses_another_autoencoder_and_other_settings(model, tmp_path):
    build(model, tmp_path, max_videos=8, shard_size=4)
    autoencoder_hash, other = fingerprint(model), make_autoencoder(seed=1)
    both = f"autoencoder='{autoencoder_hash}' there and '{fingerprint(other)}' here"
    for complete in (True, False):
        if not complete:
            (tmp_path / INDEX).unlink()
        with pytest.raises(ValueError, match=both):
            build(other, tmp_path, max_videos=8, shard_size=4)
        with pytest.raises(ValueError, match="max_videos=8 there and 9 here, clip_seed=0 there and 1 here"):
            build(model, tmp_path, max_videos=9, shard_size=4, clip_seed=1)
    with pytest.raises(ValueError, match="shard_size=4 there and 8 here"):
        build(model, tmp_path, max_videos=8, shard_size=8)
    build(model, tmp_path, max_videos=8, shard_size=4)
    with pytest.raises(ValueError, match="autoencoder="):
        LatentCache(tmp_path, fingerprint(other))
    save_file({"labels": torch.zeros(4)}, tmp_path / "shard-00001.safetensors")
    with pytest.raises(ValueError, match="shard-00001.*is no shard of a latent cache"):
        LatentCache(tmp_path)
    (tmp_path / "shard-00001.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="shard-00001.*is missing"):
        LatentCache(tmp_path)


@pytest.mark.parametrize("name, size", [("index.json", 20), ("shard-00000.safetensors", 99), ("videos.safetensors", 9)])
def test_a_damaged_file_is_named_and_encoded_anew_where_that_is_asked_for(model, videos, tmp_path, name, size):
    settings = {"dataset": "folder", "data_root": videos, "sample_fps": 8.0, "max_bad_share": 0.5}
    whole = files(build(model, tmp_path, **settings).folder)
    (tmp_path / name).write_bytes(whole[name][:size])
    with pytest.raises(UserError, match=f"{name} is damaged.* --rebuild-cache"):
        build(model, tmp_path, **settings)
    build_cache(model, CacheConfig(**settings, num_workers=0), tmp_path, progress=False, rebuild=True)
    assert files(tmp_path).keys() == whole.keys()


def test_clips_flips_and_unreadable_files_of_a_folder(model, videos, tmp_path, capsys):
    settings = {"dataset": "folder", "data_root": str(videos), "clips_per_video": 2, "flip": True, "shard_size": 4}
    cache = build_cache(model, CacheConfig(**settings), tmp_path / "cache")
    data = VideoFolder(videos, 8, 32, crop="random")
    names = [data.source(index) for index in range(len(data))]
    bad = next(index for index, name in enumerate(names) if name.endswith("clip-29.mp4"))
    assert len(cache) == 4 * (len(data) - 1), "one video to a shard, so one shard is empty"
    assert cache.class_names == ("video",) and not cache.labels.any()
    assert list(cache.unreadable) == [names[bad]]
    assert capsys.readouterr().out.count("skipped:") == 1
    assert json.loads((tmp_path / "cache" / INDEX).read_text())["num_unreadable"] == 1

    found = [tuple(row) for row in sources(tmp_path / "cache").tolist()]
    good = [index for index in range(len(data)) if index != bad]
    assert sorted(found) == [(index, clip, flip) for index in good for clip in (0, 1) for flip in (0, 1)]
    for place in (found.index(entry) for entry in ((good[3], 0, 0), (good[3], 0, 1), (good[3], 1, 0), (good[3], 1, 1))):
        index, clip, flip = found[place]
        rng = np.random.default_rng(derive_seed(0, "cache", index, clip)) if clip else None
        frames = data.clip(index, rng)
        structure, dynamics = encode(model, frames.flip(2) if flip else frames)
        latents = cache.latents([place])
        torch.testing.assert_close(latents.structure[0], structure)
        torch.testing.assert_close(latents.dynamics[0], dynamics)

    build(model, tmp_path / "workers", **settings, num_workers=2)
    assert files(tmp_path / "workers") == files(tmp_path / "cache")

    for name in ("shard-00001.safetensors", INDEX):
        (tmp_path / "cache" / name).unlink()
    again = build(model, tmp_path / "cache", **settings)
    assert again.unreadable == cache.unreadable and files(tmp_path / "workers") == files(tmp_path / "cache")


def companion(data: ClipDataset, index: int, clip: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(derive_seed(derive_seed(0, "cache", index, clip), "companion"))
    return readable_companion(data, index, rng)


def test_structure_of_a_companion(model, tmp_path):
    """It is of the same content in another motion; all else is as it is without companions."""
    cache = build(model, tmp_path / "companions", max_videos=20, companions=True)
    own = build(model, tmp_path / "own", max_videos=20)
    latents, own_latents = cache.latents(range(20)), own.latents(range(20))
    assert torch.equal(latents.dynamics, own_latents.dynamics) and torch.equal(cache.labels, own.labels)
    for place, index in enumerate(sources(tmp_path / "companions")[:, 0].tolist()):
        structure, _ = encode(model, companion(Shapes(8, 32), index))
        torch.testing.assert_close(latents.structure[place], structure)
        assert not torch.allclose(latents.structure[place], own_latents.structure[place])


def test_companions_of_videos(model, tmp_path, capsys):
    """They are mirrored as their clips are; one that cannot be read gives way to another and is counted as itself."""
    for number in range(6):
        make_video(tmp_path / "videos" / f"{number}.mp4", count=20 + number, fps=8)
    (tmp_path / "videos" / "6.mp4").write_bytes(b"no video at all")
    make_video(tmp_path / "held-out" / "0.mp4")
    lines = [f"{number}.mp4,{'even' if number % 2 == 0 else 'odd'}" for number in range(7)]
    (tmp_path / "videos" / "all.csv").write_text("\n".join(["path,content", *lines]))
    config = CacheConfig(
        dataset="folder",
        data_root=str(tmp_path / "videos" / "all.csv"),
        held_out_root=str(tmp_path / "held-out"),
        max_bad_share=0.5,
        clips_per_video=2,
        flip=True,
        companions=True,
    )
    cache = build_cache(model, config, tmp_path / "cache")
    assert len(cache) == 6 * 2 * 2 and list(cache.unreadable) == [str(tmp_path / "videos" / "6.mp4")]
    assert capsys.readouterr().out.count("skipped:") == 1
    data = config.build("train", 8, 32)
    for place, (index, clip, mirrored) in enumerate(sources(tmp_path / "cache").tolist()):
        frames = companion(data, index, clip)
        structure, _ = encode(model, frames.flip(2) if mirrored else frames)
        torch.testing.assert_close(cache.latents([place]).structure[0], structure)


def test_stops_where_too_many_files_are_bad(model, videos, tmp_path):
    with pytest.raises(UnreadableVideo, match=r"clip-29\.mp4"):
        build(model, tmp_path, dataset="folder", data_root=str(videos), max_bad_share=0.0)


# The second process dies with its second shard half made.
DIE_IN_A_SHARD = """
import os, signal, sys
from generator import cache_latents, latent_cache
write, written = latent_cache.save_safetensors, []
def save(tensors, path, metadata):
    if os.environ["RANK"] == "1" and written:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    write(tensors, path, metadata)
latent_cache.save_safetensors = save
cache_latents.main(sys.argv[1:])
"""


def launch(*command: str) -> subprocess.CompletedProcess:
    """Run a script or module in two processes."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return subprocess.run([*torchrun, *command], capture_output=True, text=True, timeout=300)


def test_two_processes_leave_the_bytes_of_one(model, videos, tmp_path):
    """Eight shards, one bad file; once killed, and continued."""
    model.save_pretrained(tmp_path / "model")
    settings = {"dataset": "folder", "data_root": str(videos), "clips_per_video": 2, "flip": False, "shard_size": 8}
    settings |= {"autoencoder": str(tmp_path / "model")}
    one = build(model, tmp_path / "one", **settings)
    flags = [f"--{name}={value}" for name, value in (settings | {"output_dir": tmp_path / "two"}).items()]
    (tmp_path / "die.py").write_text(DIE_IN_A_SHARD)
    killed = launch(str(tmp_path / "die.py"), *flags)
    assert killed.returncode
    left = {path.name for path in (tmp_path / "two").glob("shard-*")}
    assert "shard-00001.safetensors" in left and "shard-00003.safetensors" not in left

    done = launch("-m", "generator.cache_latents", *flags)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count(f"{len(one)} clips of 1 classes") == 1 and done.stdout.count("1 files could not be read") == 1
    )
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_too_many_bad_files_of_all_processes_stop_all(model, videos, tmp_path):
    """Neither process alone tries enough files for a verdict, and only one of them meets the bad file."""
    model.save_pretrained(tmp_path / "model")
    settings = {"dataset": "folder", "data_root": videos, "autoencoder": tmp_path / "model", "max_bad_share": 0}
    settings |= {"output_dir": tmp_path / "cache", "clips_per_video": 1, "shard_size": 4}
    flags = [f"--{name}={value}" for name, value in settings.items()]
    stopped = launch("-m", "generator.cache_latents", *flags)
    assert stopped.returncode
    assert len(re.findall(r"error: 1 of the \d+ files tried so far cannot be read", stopped.stderr)) == 2
    assert not (tmp_path / "cache" / INDEX).exists()


def test_memory_does_not_grow_with_the_cache(tmp_path):
    """Opened and read at random in fresh processes, 60 MiB take little more anonymous memory than 3 MiB."""
    if cache_benchmark.anonymous_bytes() is None:
        pytest.skip("this system does not tell anonymous memory")
    taken = []
    for number, clips in enumerate((160, 20 * 160)):
        cache_benchmark.write_cache(tmp_path / str(number), clips, shard_size=80)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            taken.append(pool.submit(cache_benchmark.read_cache, tmp_path / str(number), 64, 60).result())
    small, large = taken
    assert (small.clips, small.shards, large.clips, large.shards) == (160, 2, 3200, 40)
    assert large.disk_bytes > 58 * 2**20
    assert large.read_anonymous_bytes - small.read_anonymous_bytes < 6 * 2**20


def test_refuses_flips_of_labels_that_do_not_allow_them(model, tmp_path):
    with pytest.raises(ValueError, match="flip=True, but Shapes does not declare its labels flip-invariant"):
        build(model, tmp_path, flip=True)


def test_fingerprint_follows_weights_and_config(model, tmp_path):
    model.save_pretrained(tmp_path)
    autoencoder_hash = fingerprint(model)
    assert fingerprint(AutoencoderVidTwin.from_pretrained(tmp_path)) == autoencoder_hash
    other = AutoencoderVidTwin.from_pretrained(tmp_path)
    other.decoder.proj_out.weight.data.flatten()[0] += 1e-3
    assert fingerprint(other) != autoencoder_hash
    other = AutoencoderVidTwin(**MODEL | {"qformer_dropout": 0.1})
    other.load_state_dict(model.state_dict())
    assert fingerprint(other) != autoencoder_hash


def test_the_command_caches_for_training(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m autoencoder.train"):
        cache_latents.main([])
    model.save_pretrained("model")
    write_pointer(LAST_AUTOENCODER, "model")
    cache_latents.main(["--max-videos", "6", "--device", "cpu"])
    folder = tmp_path / f"outputs/latents/shapes-{fingerprint(model)[:12]}"
    assert len(LatentCache(folder, fingerprint(model))) == 6
    assert f"6 clips of 10 classes are in {folder.relative_to(tmp_path)}" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"data/ucf101[\s\S]*classInd\.txt[\s\S]*--dataset shapes"):
        cache_latents.main(["--dataset", "ucf101"])


@pytest.mark.parametrize("dataset", ["shapes", "ucf101", "folder"])
def test_the_command_has_the_defaults_of_the_training_preset(dataset):
    preset = yaml.safe_load(commands.preset_path("generator", dataset).read_text())
    config = cache_latents.parse(["--dataset", dataset])
    assert config.dataset == dataset == preset["dataset"]
    assert config.clips_per_video == preset.get("clips_per_video", 1) and config.flip == preset.get("flip", False)
