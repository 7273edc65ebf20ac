"""Which latents are interpolated, and what their videos are measured as."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from random_i3d import Archive, write_archive
from test_evaluate import frechet
from tiny_models import tiny_vae
from torch import nn
from torch.nn import functional as F
from video_files import make_video

from autoencoder import AutoencoderVidTwin, VidTwinLatents
from autoencoder import evaluate as command
from autoencoder.common.errors import UserError
from autoencoder.metrics.interpolation import halfway, pairs_of_clips, pairs_of_moments
from autoencoder.whole_videos.listed_videos import ListedVideo, made_shapes
from autoencoder.whole_videos.scores import Protocol, decoded, encoded


def latents_at(places: list[float], dynamics: list[float] | None = None) -> VidTwinLatents:
    """One clip at each place, in structure and, unless told otherwise, in dynamics."""
    structure = torch.tensor(places).view(-1, 1, 1, 1, 1).expand(-1, 2, 1, 3, 3)
    motion = torch.tensor(places if dynamics is None else dynamics).view(-1, 1, 1, 1).expand(-1, 2, 4, 6)
    return VidTwinLatents(structure, motion)


def test_two_moments_are_neighbours_in_one_video():
    assert pairs_of_moments([4, 4, 4, 7, 2, 2]).tolist() == [[0, 1], [1, 2], [4, 5]]
    assert pairs_of_moments([1, 2, 3]).shape == pairs_of_moments([]).shape == (0, 2)


def test_two_clips_are_nearest_ones_of_two_videos():
    latents = latents_at([0.0, 0.1, 1.0, 1.2, 5.0])
    assert pairs_of_clips(latents, [0, 0, 1, 1, 2]).tolist() == [[0, 2], [1, 2], [2, 1], [3, 1], [4, 3]]
    assert pairs_of_clips(latents, [3] * 5).shape == (0, 2)


def test_both_latents_count_alike_whatever_their_scale_and_size():
    one, other = [0.0, 0.1, 3.0], [0.0, 30.0, 20.0]
    near_in_both = [[0, 2], [1, 2], [2, 1]]
    for scale in (1e-3, 1.0, 1e3):
        latents = latents_at([scale * place for place in one], other)
        assert pairs_of_clips(latents, [0, 1, 2]).tolist()[1:] == near_in_both[1:]
        assert pairs_of_clips(latents, [0, 1, 2], "structure").tolist()[0] == [0, 1]
        assert pairs_of_clips(latents, [0, 1, 2], "dynamics").tolist()[0] == [0, 2]


def test_halfway_is_the_mean():
    between = halfway(latents_at([0.0, 2.0, 8.0], [0.0, 1.0, 3.0]), torch.tensor([[0, 1], [2, 1]]))
    assert between.structure.unique().tolist() == [1.0, 5.0] and between.dynamics.unique().tolist() == [0.5, 2.0]
    assert between.structure.shape == (2, 2, 1, 3, 3) and between.dynamics.shape == (2, 2, 4, 6)


def save(folder: Path, **settings: int) -> AutoencoderVidTwin:
    torch.manual_seed(0)
    model = AutoencoderVidTwin.from_config(dict(tiny_vae().config) | settings).eval()
    nn.init.normal_(model.decoder.proj_out.weight, std=0.1)  # else every reconstruction is grey
    model.save_pretrained(folder)
    return model


def evaluate(folder: Path, *flags: object) -> dict:
    given = ["--checkpoint", folder / "model", "--output-dir", folder / "out", "--device", "cpu", "--lpips", "none"]
    command.main([str(flag) for flag in (*given, *flags)])
    return json.loads((folder / "out" / "evaluation.json").read_text())


def features_of(video: torch.Tensor) -> np.ndarray:
    levels = (video * 255).round() / 255
    frames = F.interpolate(levels[0].transpose(0, 1), (224, 224), mode="bilinear", align_corners=False)
    return Archive()(2 * frames.transpose(0, 1)[None] - 1, return_features=True)[0].double().numpy()


def test_the_command_measures_the_videos_halfway(tmp_path, capsys):
    model = save(tmp_path / "model", num_frames=12)
    lengths = {"a.mp4": 36, "b.mp4": 24, "c.mp4": 12}
    for number, (name, frames) in enumerate(lengths.items()):
        make_video(tmp_path / "videos" / name, frames, height=40 + 8 * number)
    flags = ("--videos", tmp_path / "videos", "--i3d", write_archive(tmp_path / "i3d.pt"), "--allow-unknown-i3d")
    report = evaluate(tmp_path, *flags)

    protocol, clips, videos = Protocol(25.0, 12, 16), [], []
    for number, name in enumerate(lengths):
        video = ListedVideo(name, tmp_path / "videos" / name)
        for clip in protocol.batches(video, video.open(), torch.device("cpu")):
            clips.append(clip)
            videos.append(number)
    latents = [encoded(model, clip) for clip in clips]
    real = np.stack([features_of(clip) for clip in clips])
    joined = VidTwinLatents.cat(latents)
    for kind, pairs in (("moments", pairs_of_moments(videos)), ("clips", pairs_of_clips(joined, videos))):
        assert len(pairs) == {"moments": 3, "clips": 6}[kind]
        between = [latents[one].map(lambda tensor: tensor / 2) for one, _ in pairs.tolist()]
        others = [latents[other].map(lambda tensor: tensor / 2) for _, other in pairs.tolist()]
        mixed = [
            VidTwinLatents(a.structure + b.structure, a.dynamics + b.dynamics)
            for a, b in zip(between, others, strict=True)
        ]
        fake = np.stack([features_of(decoded(model, latent)) for latent in mixed])
        found = report["interpolated"][kind]
        assert found["distance"] == pytest.approx(frechet(real, fake), rel=1e-4) and found["oracle"] is None
        assert found["clips"] == len(pairs)
    assert "between two moments" in capsys.readouterr().out

    without = evaluate(tmp_path, *flags, "--interpolate", "false")
    assert without["interpolated"] == {} and without["distance"] == report["distance"]


@pytest.mark.parametrize("frames, counts", [(12, (0, 0)), (24, (1, 0))])
def test_one_video_is_too_few_for_what_lies_between(tmp_path, capsys, frames, counts):
    save(tmp_path / "model", num_frames=12)
    make_video(tmp_path / "videos" / "a.mp4", frames)
    flags = ("--videos", tmp_path / "videos", "--i3d", write_archive(tmp_path / "i3d.pt"), "--allow-unknown-i3d")
    report = evaluate(tmp_path, *flags)
    found = report["interpolated"]
    assert tuple(found[kind]["clips"] for kind in ("moments", "clips")) == counts
    assert [found[kind]["distance"] for kind in found] == [None, None]
    printed = capsys.readouterr().out
    for count in counts:
        assert f"not measured: it takes at least 2 videos of interpolated latents, not {count}\n" in printed


def test_moving_shapes_are_judged_by_their_oracle(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "model", num_frames=4, sample_size=32)
    report = evaluate(tmp_path, "--videos", "shapes", "--num-shapes", "3", "--i3d", "none")
    assert (report["videos"], report["clips"]) == (3, 6)
    assert report["interpolated"]["moments"] == {"clips": 3, "distance": None, "oracle": 0.0}
    assert report["interpolated"]["clips"]["clips"] == 6
    assert "not measured of 3 videos of interpolated latents, shape and motion seen in 0.0%" in capsys.readouterr().out
    monkeypatch.setattr("autoencoder.whole_videos.scores.decoded", lambda model, latents, part: shown(len(latents)))
    seen = evaluate(tmp_path, "--videos", "shapes", "--num-shapes", "3", "--i3d", "none")
    assert seen["interpolated"]["clips"]["oracle"] == 1.0, "of true clips the oracle sees all"


def shown(count: int) -> torch.Tensor:
    """A moving shape, as often."""
    frames = torch.stack([frame.pixels for frame in made_shapes(1, 4, 32)[0].open().frames()][:4])
    return frames.permute(3, 0, 1, 2).expand(count, -1, -1, -1, -1) / 255


def test_made_videos_go_on_where_the_clip_ends():
    first, second = made_shapes(2, 16, 32)
    frames = [frame.pixels for frame in first.open().frames()]
    assert len(frames) == first.open().num_frames == 32 and frames[0].shape == (32, 32, 3)
    steps = [(a.int() - b.int()).abs().float().mean().item() for a, b in zip(frames, frames[1:], strict=False)]
    assert steps[15] < 2 * max(steps[:15]), "no jump between the two clips"
    assert not torch.equal(frames[0], next(second.open().frames()).pixels)
    with pytest.raises(UserError, match="there are 1,000 held-out moving shapes, not 1,001"):
        made_shapes(1001, 16, 32)
