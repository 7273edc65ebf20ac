"""Sampling under a condition: guidance by latent and by noise level, and one latent given."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import NAMES, noise_latents, tiny_pipeline
from video_files import make_video, numbers

from autoencoder import VidTwinLatents
from autoencoder.common.cost import count_flops
from autoencoder.common.errors import UserError
from autoencoder.data import UnreadableVideo, to_video
from autoencoder.data.video_io import ClipReader
from pipelines.conditioning import read_latents
from pipelines.schedulers import convert_scheduler

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers' schedulers

LATENT_NAMES = ("structure", "dynamics")
OTHER = {"structure": "dynamics", "dynamics": "structure"}


def record_calls(pipe):
    """A list that fills with the tokens, timesteps and labels of every call of the transformer."""
    calls = []
    pipe.transformer.register_forward_hook(lambda module, args, output: calls.append(args))
    return calls


def test_guidance_of_each_latent_is_the_formula():
    pipe = tiny_pipeline("sample")
    noise = noise_latents(pipe, 2)
    # One step of DDIM returns what the network predicts.
    arguments = {"num_inference_steps": 1, "latents": noise, "output_type": "latent"}
    out = pipe([0, 1], guidance_scale=(3.0, 0.5), **arguments).frames
    plain = pipe([0, 1], guidance_scale=1.0, **arguments).frames
    layout = pipe.transformer.layout
    null = pipe.transformer(layout.pack(noise), torch.tensor(999), torch.full((2,), len(NAMES))).sample
    null = pipe.transformer.denormalize(layout.unpack(null))
    for half, scale in zip(LATENT_NAMES, (3.0, 0.5), strict=True):
        conditional, unconditional = getattr(plain, half), getattr(null, half)
        expected = unconditional + scale * (conditional - unconditional)
        assert torch.allclose(getattr(out, half), expected, atol=1e-5)
        assert not torch.allclose(getattr(out, half), conditional, atol=1e-2)


def test_equal_weights_are_one_weight():
    pipe = tiny_pipeline()
    assert np.array_equal(pipe(0, 2, (3.0, 3.0), generator=0).frames, pipe(0, 2, 3.0, generator=0).frames)


@pytest.mark.parametrize(
    "scale, given, size",
    [(1, None, 1), ((1, 1), None, 1), ((1, 2), None, 2), ((1, 2), "dynamics", 1), (2, "dynamics", 2)],
)
def test_the_null_class_is_asked_for_only_where_it_counts(scale, given, size):
    pipe = tiny_pipeline(independent_times=True)
    calls = record_calls(pipe)
    pipe(0, 2, scale, output_type="latent", **({} if given is None else {given: noise_latents(pipe, 1)}))
    assert [len(tokens) for tokens, _, _ in calls] == [size] * 2


@pytest.mark.parametrize(
    "name, kind, interval, guided",
    [
        ("FlowMatchEulerDiscreteScheduler", "flow", (0.3, 0.7), [0.7, 0.6, 0.5, 0.4, 0.3]),
        ("FlowMatchEulerDiscreteScheduler", "flow_sample", (0.95, 1.0), [1.0]),
        ("FlowMatchEulerDiscreteScheduler", "flow", (0.0, 0.1), [0.1]),
        ("FlowMatchEulerDiscreteScheduler", "flow", (0.61, 0.69), []),
        ("HeunDiscreteScheduler", "epsilon", (0.45, 0.7), [0.699, 0.699, 0.599, 0.599, 0.499, 0.499]),
    ],
)
def test_outside_the_interval_the_condition_is_asked_for_alone(name, kind, interval, guided):
    pipe = tiny_pipeline(kind)
    pipe.scheduler = convert_scheduler(name, pipe.scheduler.config, kind)
    calls = record_calls(pipe)
    noise = noise_latents(pipe, 1)
    out = pipe(0, 10, 3.0, guidance_interval=interval, latents=noise, output_type="latent")
    shares = [timestep[0].item() / 1000 for tokens, timestep, _ in calls if len(tokens) == 2]
    assert np.allclose(sorted(shares), sorted(guided), atol=1e-3)

    def flops(size):
        empty = torch.zeros(size, *pipe.transformer.layout.mask.shape)
        return count_flops(pipe.transformer, empty, torch.zeros(size), torch.zeros(size).long())

    assert out.cost.sampling.flops == len(guided) * flops(2) + (len(calls) - len(guided)) * flops(1)
    everywhere = pipe(0, 10, 3.0, latents=noise, output_type="latent").frames
    nowhere = pipe(0, 10, 1.0, latents=noise, output_type="latent").frames
    assert torch.equal(out.frames.structure, nowhere.structure) == (not guided)
    assert not torch.equal(out.frames.structure, everywhere.structure)


@pytest.mark.parametrize("half", LATENT_NAMES)
@pytest.mark.parametrize("kind", ["flow", "flow_sample", "v_prediction"])
def test_a_given_latent_enters_clean_and_comes_out_bit_for_bit(half, kind):
    pipe = tiny_pipeline(kind, independent_times=True)
    calls = record_calls(pipe)
    given = noise_latents(pipe, 2, seed=5)
    seen = []
    out = pipe(
        [0, 2], 4, output_type="latent", generator=0, **{half: given},
        callback_on_step_end=lambda pipe, index, time, kwargs: seen.append(kwargs["latents"]),
    ).frames  # fmt: skip
    assert torch.equal(getattr(out, half), getattr(given, half))
    layout = pipe.transformer.layout
    clean = getattr(pipe.transformer.normalize(given), half)
    for tokens, timestep, _ in calls:
        assert torch.equal(getattr(layout.unpack(tokens), half), clean.repeat(2, *[1] * (clean.ndim - 1)))
        assert timestep.shape == (4, 2) and not timestep[:, LATENT_NAMES.index(half)].any()
    for tokens in seen:
        assert torch.equal(getattr(layout.unpack(tokens), half), clean)
    assert [timestep[0].max().item() for _, timestep, _ in calls] == pipe.scheduler.timesteps.tolist()
    assert not torch.equal(getattr(out, OTHER[half]), getattr(given, OTHER[half]))


@pytest.mark.parametrize("half", LATENT_NAMES)
def test_the_sampled_latent_starts_from_the_noise_of_the_joint_call_and_depends_on_the_given_one(half):
    pipe = tiny_pipeline(independent_times=True)
    calls = record_calls(pipe)
    arguments = {"num_inference_steps": 2, "guidance_scale": 1, "generator": 3, "output_type": "latent"}
    pipe(0, **arguments)
    given = noise_latents(pipe, 1, seed=5)
    outs = [
        getattr(pipe(0, **arguments, **{half: values}).frames, OTHER[half]) for values in (given, given.map(torch.neg))
    ]
    starts = [getattr(pipe.transformer.layout.unpack(calls[index][0]), OTHER[half]) for index in (0, 2, 4)]
    assert torch.equal(starts[0], starts[1]) and torch.equal(starts[0], starts[2])
    assert (outs[0] - outs[1]).abs().max() > 1e-3


@pytest.mark.parametrize("half", LATENT_NAMES)
def test_a_video_does_not_depend_on_its_batch(half):
    pipe = tiny_pipeline(independent_times=True)
    given = noise_latents(pipe, 3, seed=5)
    together = pipe([2, 0, 1], 3, 2.0, generator=10, **{half: given}).frames
    for index, class_id in enumerate([2, 0, 1]):
        arguments = {
            "generator": [torch.Generator().manual_seed(10 + index)],
            half: getattr(given, half)[index : index + 1],
        }
        assert np.abs(pipe(class_id, 3, 2.0, **arguments).frames[0] - together[index]).max() < 1e-5


def test_sources_of_a_latent(tmp_path):
    pipe = tiny_pipeline(independent_times=True)
    pair, single = noise_latents(pipe, 2, seed=5), noise_latents(pipe, 1, seed=6)
    single.save(tmp_path / "one.safetensors")
    make_video(tmp_path / "a.mp4", height=32, width=32)

    def structure(source):
        out = pipe([0, 1], 1, output_type="latent", structure=source).frames
        assert out.structure.dtype == torch.float32
        return out.structure

    broadcast = single.structure.expand_as(pair.structure)
    assert torch.equal(structure(pair), pair.structure)
    assert torch.equal(structure(pair.structure.double()), pair.structure)
    for source in (single, single.structure, tmp_path / "one.safetensors", str(tmp_path / "one.safetensors")):
        assert torch.equal(structure(source), broadcast)
    encoded = read_latents(tmp_path / "a.mp4", pipe.vae).structure
    assert torch.equal(structure([tmp_path / "a.mp4", tmp_path / "one.safetensors"])[:1], encoded)
    assert torch.equal(structure([tmp_path / "a.mp4", tmp_path / "one.safetensors"])[1:], single.structure)
    later = pipe(0, 1, output_type="latent", structure=tmp_path / "a.mp4", clip_fps=None, clip_start=1.0).frames
    assert not torch.equal(later.structure, encoded)
    pair.structure.requires_grad_()
    given = pipe([0, 1], 1, output_type="latent", structure=pair).frames.structure
    assert given.data_ptr() != pair.structure.data_ptr() and not given.requires_grad


def test_a_latent_is_taken_from_a_video_in_every_form():
    pipe = tiny_pipeline(independent_times=True)
    outs = {kind: pipe([0, 1], 2, generator=0, output_type=kind) for kind in ("np", "pt", "pil")}
    frames = torch.from_numpy(outs["np"].frames)  # (2, 4, 16, 16, 3)
    video = 2 * frames.permute(0, 4, 1, 2, 3) - 1  # (2, 3, 4, 16, 16)
    levels = (255 * frames).round().byte()
    with torch.no_grad():
        expected = pipe.vae.eval().encode(video).latent_dist.mode()
        of_levels = pipe.vae.encode(to_video(levels)).latent_dist.mode()
    pipe.vae.train()

    def taken(source, name="structure"):
        return getattr(pipe([0, 1], 1, output_type="latent", **{name: source}).frames, name)

    for source in (video, video.numpy(), video.double(), outs["np"], outs["np"].frames, outs["pt"].frames, list(video)):
        assert torch.allclose(taken(source), expected.structure, atol=1e-6)
        assert torch.allclose(taken(source, "dynamics"), expected.dynamics, atol=1e-6)
    for source in (levels, levels.numpy(), levels.permute(0, 4, 1, 2, 3), outs["pil"].frames):
        assert torch.allclose(taken(source), of_levels.structure, atol=1e-6)
    for source in (video[0], outs["np"].frames[0], outs["pt"].frames[0], list(outs["np"].frames[0])):
        assert torch.allclose(taken(source), expected.structure[:1].expand_as(expected.structure), atol=1e-6)
    for source in (levels[0], outs["pil"].frames[0]):
        assert torch.allclose(taken(source), of_levels.structure[:1].expand_as(expected.structure), atol=1e-6)
    assert torch.equal(taken(expected.structure.numpy()), expected.structure), "a latent by its shape"
    assert pipe.vae.training


@pytest.mark.parametrize(
    "fps, start, shown", [(8.0, 0.0, [0, 3, 6, 9]), (None, 0.0, [0, 1, 2, 3]), (5.0, 1.0, [25, 30, 35, 40])]
)
def test_the_clip_of_a_video_starts_where_it_is_told_to(tmp_path, fps, start, shown):
    vae = tiny_pipeline().vae
    path = make_video(tmp_path / "a.mp4", count=50, fps=25)
    frames = ClipReader(50, 16, None).read(path)[shown]
    assert numbers(ClipReader(50, None, None).read(path))[: len(shown)] == [0, 1, 2, 3]
    expected = vae.eval().encode(to_video(frames[None])).latent_dist.mode()
    out = read_latents(path, vae.train(), fps, start)
    assert vae.training and not out.structure.requires_grad
    assert torch.equal(out.structure, expected.structure) and torch.equal(out.dynamics, expected.dynamics)


def test_files_that_hold_no_clip(tmp_path):
    vae = tiny_pipeline().vae
    video = make_video(tmp_path / "a.mp4", count=5)
    save_file({"structure": torch.zeros(1)}, tmp_path / "half.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(FileNotFoundError, match="there is no file .*none.mp4; give a video, or latents"):
        read_latents(tmp_path / "none.mp4", vae)
    with pytest.raises(UnreadableVideo, match="too short"):
        read_latents(video, vae)
    with pytest.raises(UnreadableVideo, match="text.mp4"):
        read_latents(tmp_path / "text.mp4", vae)
    with pytest.raises(ValueError, match=r"holds \['structure'\]"):
        read_latents(tmp_path / "half.safetensors", vae)
    with pytest.raises(ValueError, match="text.safetensors is no readable safetensors file"):
        read_latents(tmp_path / "text.safetensors", vae)
    for start in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="clip_start must be a second from 0 on"):
            read_latents(video, vae, clip_start=start)
    with pytest.raises(ValueError, match="sample_fps=0"):
        read_latents(video, vae, clip_fps=0)


def zeros(*shape):
    return torch.zeros(shape)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            {"guidance_scale": (1.0,)},
            ValueError,
            r"guidance_scale must be finite, one number or \(structure, dynamics\)",
        ),
        ({"guidance_scale": (1.0, float("inf"))}, ValueError, "guidance_scale must be finite"),
        ({"guidance_scale": "55"}, ValueError, "guidance_scale must be finite.*got '55'"),
        ({"guidance_scale": None}, ValueError, "guidance_scale must be finite"),
        ({"guidance_interval": (0.5, 0.5)}, ValueError, r"0 <= low < high <= 1, got \(0.5, 0.5\)"),
        ({"guidance_interval": (-0.1, 0.5)}, ValueError, "0 <= low < high <= 1"),
        ({"guidance_interval": (0.0, 700)}, ValueError, "0 <= low < high <= 1"),
        ({"guidance_interval": (0.0, float("nan"))}, ValueError, "0 <= low < high <= 1"),
        ({"guidance_interval": 0.5}, ValueError, r"a pair \(low, high\), got 0.5"),
        ({"guidance_interval": "01"}, ValueError, r"a pair \(low, high\), got '01'"),
        (
            {"structure": zeros(2, 2, 3, 2, 2)},
            ValueError,
            r"structure must be \(B, 2, 3, 2, 2\) with B = 1 or 3.*\(2, 2,",
        ),
        ({"structure": zeros(2, 3, 2, 2)}, ValueError, r"structure must be \(B, 2, 3, 2, 2\)"),
        ({"dynamics": zeros(1, 2, 4, 5)}, ValueError, r"dynamics must be \(B, 2, 4, 4\) .* got \(1, 2, 4, 5\)"),
        ({"dynamics": zeros(1, 2, 4, 4) * torch.nan}, ValueError, "dynamics holds NaN or infinity"),
        ({"dynamics": []}, ValueError, "dynamics is an empty list"),
        ({"dynamics": 3}, TypeError, "dynamics must be VidTwinLatents, a tensor, a file or a list of files, got 3"),
        ({"dynamics": [zeros(1, 2, 4, 4), 3]}, TypeError, r"dynamics must be .*got a list of 2 \(Tensor, int\)"),
        ({"dynamics": {"a": 1}}, TypeError, "dynamics must be .*got {'a': 1}"),
        ({"dynamics": np.array(["a", "b"])}, FileNotFoundError, "there is no file a"),
        ({"dynamics": np.array([None])}, TypeError, r"got ndarray object \(1,\)"),
        ({"dynamics": np.zeros((2, 4, 16, 16, 3), np.uint8)}, UserError, r"B = 1 or 3.*got \(2, 2, 4, 4\)"),
        (
            {"dynamics": np.zeros((1, 5, 16, 16, 3), np.uint8)},
            UserError,
            r"got \(1, 5, 16, 16, 3\) of torch.uint8; a video",
        ),
        ({"structure": np.full((1, 4, 16, 16, 3), 9.0)}, UserError, r"must be in \[0, 1\], .* go from 9 to 9"),
        ({"structure": zeros(1, 3, 4, 16, 16) - 9}, UserError, r"must be in \[-1, 1\], .* go from -9 to -9"),
        ({"structure": zeros(1, 3, 4, 16, 16) * torch.nan}, UserError, r"must be in \[-1, 1\]"),
        ({"structure": zeros(1, 3, 4, 16, 16).long()}, UserError, r"got \(1, 3, 4, 16, 16\) of torch.int64"),
        ({"dynamics": "nowhere.mp4"}, FileNotFoundError, "there is no file nowhere.mp4"),
        ({"structure": zeros(1), "dynamics": zeros(1)}, ValueError, "both given: there is nothing left to sample"),
    ],
)
def test_bad_arguments_raise_one_clear_error(arguments, error, message):
    with pytest.raises(error, match=message):
        tiny_pipeline(independent_times=True)([0, 1, 2], 1, **arguments)


def test_a_transformer_that_knows_one_noise_level_takes_no_latent_as_given():
    pipe = tiny_pipeline()
    for half in LATENT_NAMES:
        with pytest.raises(
            ValueError, match=f"{half} is given, but the transformer was not trained with independent_times"
        ):
            pipe(0, **{half: "never read"})


def test_the_whole_given_clip_can_be_decoded():
    """Pictures of a given latent are those of the pair that comes out."""
    pipe = tiny_pipeline(independent_times=True)
    given = noise_latents(pipe, 1, seed=5)
    pair = pipe(0, 2, generator=0, structure=given, output_type="latent").frames
    assert isinstance(pair, VidTwinLatents)
    video = (pipe.vae.decode(pair).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1).detach().numpy()
    assert np.allclose(pipe(0, 2, generator=0, structure=given).frames, video, atol=1e-6)


def test_bfloat16_models_keep_the_given_latent_in_float32():
    pipe = tiny_pipeline(independent_times=True)
    given = noise_latents(pipe, 1, seed=5)
    expected = pipe(0, 3, generator=0, dynamics=given, output_type="latent").frames
    pipe.to(dtype=torch.bfloat16)
    out = pipe(0, 3, generator=0, dynamics=given, output_type="latent").frames
    assert torch.equal(out.dynamics, given.dynamics)
    assert 0 < (out.structure - expected.structure).abs().max() < 0.1
    assert np.isfinite(pipe(0, 3, generator=0, dynamics=given).frames).all()
