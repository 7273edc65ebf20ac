"""Whole videos as latents in a file, and reference checkpoints as folders."""

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny_models import tiny_vae
from video_files import make_video

from autoencoder import AutoencoderVidTwin, convert, decode, encode
from autoencoder.checkpoint import fingerprint
from autoencoder.reconstruct import ReconstructConfig
from autoencoder.whole_videos.encoded_video import METADATA_KEY, EncodedVideo, decode_video, encode_video
from autoencoder.whole_videos.reconstruction import reconstructed
from autoencoder.whole_videos.video_file import open_file

WEIGHTS = Path(__file__).parent / "data" / "reference" / "one_block.weights.safetensors"


def make_model(seed: int) -> AutoencoderVidTwin:
    torch.manual_seed(seed)
    model = tiny_vae()
    for parameter in model.decoder.proj_out.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> AutoencoderVidTwin:
    return make_model(0)


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """11 frames at a variable rate, 64 x 48."""
    stamps = [*range(0, 240, 40), *range(240, 290, 10)]
    return make_video(tmp_path_factory.mktemp("video") / "in.mp4", 11, milliseconds=stamps)


@pytest.mark.parametrize("fit, part, overlap", [("pad", "both", 1), ("crop", "both", 0), ("pad", "dynamics", 2)])
def test_decoding_the_latents_gives_the_reconstruction(model, video, tmp_path, fit, part, overlap):
    encode_video(model, open_file(video), fit, overlap).save(tmp_path / "video.safetensors")
    decoded = list(decode_video(model, EncodedVideo.load(tmp_path / "video.safetensors"), part))
    config = ReconstructConfig(Path("unused"), fit=fit, part=part, overlap=overlap)
    file = open_file(video)
    expected = list(reconstructed(model, file, file, config))
    assert len(decoded) == len(expected) == 11
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(decoded, expected, strict=True))
    assert [frame[1:] for frame in decoded] == [frame[1:] for frame in expected]


def test_commands(checkpoint, model, video, tmp_path):
    latents, output = tmp_path / "video.safetensors", tmp_path / "out.mp4"
    shared = ["--checkpoint", str(checkpoint), "--device", "cpu"]
    encode.main([str(video), str(latents), *shared])
    decode.main([str(latents), str(output), *shared])
    given, made = open_file(video), open_file(output)
    assert (made.format.width, made.format.height, made.num_frames) == (64, 48, 11)
    seconds = [[frame.stamp * file.format.time_base for frame in file.frames()] for file in (given, made)]
    assert seconds[0] == seconds[1] and seconds[0][-1] == Fraction(280, 1000)
    with safe_open(latents, "pt") as file:
        about = json.loads(file.metadata()[METADATA_KEY])
    assert about["model"] == fingerprint(model) and about["num_frames"] == 11 and about["overlap"] == 1
    assert about["box"] == [2, 0, 12, 16] and Fraction(about["format"]["rate"]) == given.format.rate
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        encode.main([str(video), str(tmp_path / "video.mp4"), *shared])


def test_a_file_comes_back_as_it_was(model, video, tmp_path):
    encoded = encode_video(model, open_file(video), "crop", 1)
    encoded.save(tmp_path / "video.safetensors")
    loaded = EncodedVideo.load(tmp_path / "video.safetensors")
    assert torch.equal(loaded.latents.structure, encoded.latents.structure)
    assert torch.equal(loaded.latents.dynamics, encoded.latents.dynamics)
    assert torch.equal(loaded.times, encoded.times)
    for field in ("format", "fit", "overlap", "model"):
        assert getattr(loaded, field) == getattr(encoded, field)


def test_another_model_is_refused(model, video, tmp_path):
    other = make_model(1)
    encoded = encode_video(model, open_file(video), "pad", 1)
    with pytest.raises(ValueError, match=rf"another autoencoder: .*{fingerprint(model)}.*{fingerprint(other)}"):
        decode_video(other, encoded)
    other_name = dataclasses.replace(encoded, model=fingerprint(other))
    assert next(decode_video(other, other_name)).pixels.shape == (48, 64, 3)


def test_files_that_hold_something_else_are_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        EncodedVideo.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no latents at all")
    with pytest.raises(ValueError, match=r"text\.safetensors is no readable safetensors file"):
        EncodedVideo.load(tmp_path / "text.safetensors")
    video = torch.zeros(1, *model.video_shape)
    model.encode(video).latent_dist.mode().save(tmp_path / "clip.safetensors")
    with pytest.raises(ValueError, match=r"clip\.safetensors holds \['dynamics', 'structure'\], not a video"):
        EncodedVideo.load(tmp_path / "clip.safetensors")


def test_a_reference_checkpoint_becomes_a_folder(tmp_path, capsys):
    folder = tmp_path / "model"
    convert.main([str(WEIGHTS), str(folder), "--num-attention-heads", "4"])
    expected = AutoencoderVidTwin.from_original(WEIGHTS, num_attention_heads=4)
    assert fingerprint(AutoencoderVidTwin.from_pretrained(folder)) == fingerprint(expected)
    assert fingerprint(expected)[:12] in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="exists already"):
        convert.main([str(WEIGHTS), str(folder), "--num-attention-heads", "4"])
    with pytest.raises(ValueError, match="num_attention_heads="):
        convert.main([str(WEIGHTS), str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
