"""Videos longer than a clip: clips that go on from the end of the one before."""

import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import noise_latents, tiny_pipeline

from autoencoder.common.errors import UserError
from generator import VidTwinDiT
from generator.dit import VidTwinDiTOutput
from pipelines.chaining import Windows
from pipelines.conditioning import GivenLatent

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers' schedulers

FRAMES, PATCH = 8, 2
LONG = {"num_frames": FRAMES, "dynamics_patch_size": (PATCH, 1), "independent_times": True, "frame_times": True}


def long_pipeline(kind: str = "flow", **options):
    return tiny_pipeline(kind, **LONG, **options)


@pytest.mark.parametrize(
    "num_frames, overlap, news",
    [
        (1, 4, [(0, 1)]),
        (8, 4, [(0, 8)]),
        (9, 4, [(0, 8), (4, 5)]),
        (12, 4, [(0, 8), (4, 8)]),
        (13, 4, [(0, 8), (4, 8), (4, 5)]),
        (14, 6, [(0, 8), (6, 8), (6, 8), (6, 8)]),
        (21, 2, [(0, 8), (2, 8), (2, 8), (2, 3)]),
    ],
)
def test_windows_cover_every_frame_once(num_frames, overlap, news):
    windows = Windows(num_frames, FRAMES, overlap)
    assert [(new.start, new.stop) for new in map(windows.new, range(len(windows)))] == news
    places = []
    for index in range(len(windows)):
        new, start = windows.new(index), index * (FRAMES - overlap)
        places += range(start + new.start, start + new.stop)
    assert places == list(range(num_frames))


@pytest.mark.parametrize("num_frames", [3, 8, 9, 12, 21])
def test_lengths_and_output_types(num_frames):
    pipe = long_pipeline()
    outputs = {
        kind: pipe([0, 1], 2, generator=0, num_frames=num_frames, output_type=kind).frames
        for kind in ("np", "pt", "pil")
    }
    assert outputs["np"].shape == (2, num_frames, 16, 16, 3)
    assert np.array_equal(outputs["pt"].permute(0, 1, 3, 4, 2).numpy(), outputs["np"])
    assert [len(video) for video in outputs["pil"]] == [num_frames] * 2
    assert np.abs(np.asarray(outputs["pil"][1][-1]) / 255 - outputs["np"][1, -1]).max() <= 0.5 / 255 + 1e-6


def test_a_clip_is_the_same_bits_with_and_without_a_length():
    pipe = long_pipeline()
    plain = pipe([0, 1], 2, generator=0).frames
    assert np.array_equal(pipe([0, 1], 2, generator=0, num_frames=FRAMES).frames, plain)
    assert np.array_equal(pipe([0, 1], 2, generator=0, num_frames=5).frames, plain[:, :5])


def test_a_longer_video_begins_with_the_shorter_one_and_depends_on_its_own_seed():
    pipe = long_pipeline()
    long = pipe([0, 1], 2, generator=[3, 4], num_frames=20).frames
    assert np.array_equal(pipe([0, 1], 2, generator=[3, 4], num_frames=12).frames, long[:, :12])
    alone = pipe(1, 2, generator=4, num_frames=20).frames
    assert np.abs(alone - long[1:]).max() < 1e-4 < np.abs(long[0] - long[1]).max()


class Oracle(VidTwinDiT):
    """Leads every token that is not given to `answer`; what is given must come as in `history`, with time 0."""

    answer: torch.Tensor
    history: torch.Tensor | None = None
    num_given: int = 0

    def forward(self, tokens, timestep, class_labels, return_dict=True):
        repeats = len(tokens) // len(self.answer)
        times = timestep[:, self.time_rows, None] / 1000 if timestep.ndim == 2 else (timestep / 1000)[:, None, None]
        times = times.expand(-1, tokens.shape[1], -1)
        if self.history is not None and tokens.device.type != "meta":  # where FLOPs are counted
            is_given = self.time_rows <= self.num_given // PATCH
            assert timestep.shape == (len(tokens), 1 + FRAMES // PATCH)
            assert torch.equal(times[..., 0] == 0, is_given.expand(len(tokens), -1))
            assert torch.equal(tokens[:, is_given], self.history.repeat(repeats, 1, 1)[:, is_given])
        answer = self.answer.repeat(repeats, 1, 1)
        return VidTwinDiTOutput(sample=torch.where(times > 0, (tokens - answer) / times.clamp(min=1e-6), 0.0))


@pytest.mark.parametrize("overlap", [2, 4, 6])
def test_what_is_given_comes_back_exactly_and_the_rest_is_the_answer(overlap):
    pipe = long_pipeline(cls=Oracle)
    layout, transformer = pipe.transformer.layout, pipe.transformer
    answers = [noise_latents(pipe, 2, seed) for seed in (5, 6, 7)]
    transformer.answer = layout.pack(answers[0])
    found = []
    for index, out in enumerate(
        pipe.stream([0, 2], 3 * FRAMES - 2 * overlap, num_inference_steps=4, overlap=overlap, output_type="latent")
    ):
        latents = out.frames
        found.append(latents)
        expected = transformer.denormalize(answers[index])
        first = overlap if index else 0
        torch.testing.assert_close(latents.dynamics[:, :, first:], expected.dynamics[:, :, first:])
        if index:
            before = found[index - 1]
            assert torch.equal(latents.structure, before.structure)
            assert torch.equal(latents.dynamics[:, :, :overlap], before.dynamics[:, :, FRAMES - overlap :])
        if index < 2:
            given = transformer.normalize(latents)
            given.dynamics[:, :, :overlap] = given.dynamics[:, :, FRAMES - overlap :].clone()
            transformer.history, transformer.num_given = layout.pack(given), overlap
            transformer.answer = layout.pack(answers[index + 1])
    assert len(found) == 3


def test_the_given_frames_may_come_without_the_structure():
    pipe = long_pipeline()
    layout = pipe.transformer.layout
    given = GivenLatent.of(noise_latents(pipe, 1), False, 4, pipe.transformer)
    assert given.given_times == (False, True, True, False, False)
    assert given.times(torch.tensor(7.0)).tolist() == [7, 0, 0, 7, 7]
    sampled = noise_latents(pipe, 1, seed=9)
    mixed = given.into_latents(sampled)
    assert torch.equal(mixed.structure, sampled.structure)
    assert torch.equal(mixed.dynamics[:, :, :4], given.latents.dynamics[:, :, :4])
    assert torch.equal(mixed.dynamics[:, :, 4:], sampled.dynamics[:, :, 4:])
    is_given = layout.unpack(given.is_given.expand(1, -1, layout.token_dim).float())
    assert not is_given.structure.any() and is_given.dynamics[:, :, :4].all() and not is_given.dynamics[:, :, 4:].any()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"overlap": 2, "guidance_scale": (1.5, 3.0), "guidance_interval": (0.2, 0.9)},
        {"structure_strength": 0.5, "output_type": "pt", "decode_chunk_size": 1},
    ],
    ids=str,
)
def test_a_stream_is_the_call_in_pieces(arguments):
    pipe = long_pipeline()
    common = {"num_inference_steps": 3, "generator": 0, "num_frames": 18, **arguments}
    whole = pipe([0, 1], **common)
    pieces = list(pipe.stream([0, 1], **common))
    assert np.array_equal(np.concatenate([piece.frames for piece in pieces], axis=1), whole.frames)
    assert sum(piece.cost.sampling.flops for piece in pieces) == whole.cost.sampling.flops
    assert sum(piece.cost.decoding.flops for piece in pieces) == whole.cost.decoding.flops


def test_a_given_structure_stays_and_one_drawn_again_starts_from_the_one_before():
    pipe = long_pipeline()
    given = noise_latents(pipe, 1, seed=8)
    common = {"num_inference_steps": 10, "generator": 0, "num_frames": 12, "output_type": "latent"}
    for out in pipe.stream(0, structure=given, **common):
        assert torch.equal(out.frames.structure, given.structure)
    kept, little, much = (
        [out.frames for out in pipe.stream(0, structure_strength=strength, **common)] for strength in (0, 0.1, 1)
    )
    assert torch.equal(kept[0].structure, kept[1].structure)
    assert torch.equal(little[0].structure, kept[0].structure) and torch.equal(little[1].dynamics, kept[1].dynamics)
    near, far = ((clips[1].structure - kept[1].structure).abs().mean() for clips in (little, much))
    assert 0 < near < far


def test_callbacks_count_the_steps_of_each_clip_and_end_the_video():
    pipe = long_pipeline()
    seen = []

    def note(pipe, step, timestep, kwargs):
        seen.append(step)
        pipe._guidance_scale = 1.0
        pipe._interrupt = len(seen) == 5

    labels = []
    pipe.transformer.register_forward_hook(lambda module, args, output: labels.append(len(args[0])))
    out = pipe(0, 3, 2.0, generator=0, num_frames=20, callback_on_step_end=note)
    assert seen == [0, 1, 2, 0, 1] and out.frames.shape[1] == 12
    assert labels == [2, 1, 1, 1, 1], "what a callback sets holds for the clips that follow"


def test_a_stream_that_is_closed_half_way_leaves_nothing_over(monkeypatch):
    pipe, freed = long_pipeline(), []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append(True))
    stream = pipe.stream(0, 40, num_inference_steps=2, generator=0)
    first = next(stream)
    assert not freed
    stream.close()
    assert freed and pipe.current_timestep is None and torch.is_grad_enabled()
    assert np.array_equal(pipe(0, 2, generator=0).frames, first.frames)


def test_a_stream_without_return_dict_yields_tuples():
    pipe = long_pipeline()
    common = {"num_inference_steps": 1, "generator": 0, "num_frames": 12}
    frames, costs = zip(*pipe.stream(0, return_dict=False, **common), strict=True)
    assert np.array_equal(np.concatenate(frames, axis=1), pipe(0, **common).frames)
    assert all(cost.decoding.flops > 0 for cost in costs)


def test_a_video_without_end_is_streamed():
    first = next(long_pipeline().stream(0, sys.maxsize, num_inference_steps=1))
    assert first.frames.shape == (1, FRAMES, 16, 16, 3)


def test_streams_take_turns():
    pipe = long_pipeline()
    common = {"num_inference_steps": 2, "num_frames": 16}
    expected = [pipe(0, guidance_scale=scale, generator=seed, **common).frames for scale, seed in ((1, 0), (3, 1))]
    streams = [pipe.stream(0, guidance_scale=scale, generator=seed, **common) for scale, seed in ((1, 0), (3, 1))]
    for pieces, whole in zip(zip(*zip(*streams, strict=True), strict=True), expected, strict=True):
        assert np.array_equal(np.concatenate([piece.frames for piece in pieces], axis=1), whole)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"num_frames": 10**20}, f"num_frames must be at most {sys.maxsize}, got {10**20}"),
        ({"num_frames": 16.0}, "num_frames must be a whole number, got 16.0"),
        ({"num_frames": 16, "overlap": 3}, "overlap=3: .* 2 of which share a dynamics token .* from 2, 4, 6"),
        ({"num_frames": 16, "overlap": 8}, "overlap=8: clips of 8 frames"),
        ({"num_frames": 16, "overlap": 0}, "overlap must be at least 1, got 0"),
        ({"num_frames": 16, "output_type": "latent"}, r"takes 3 of them: pipe.stream\(..., output_type='latent'\)"),
        ({"num_frames": 16, "structure_strength": 1.5}, r"structure_strength must lie in \[0, 1\], got 1.5"),
        ({"num_frames": 16, "structure_strength": "much"}, r"structure_strength must lie in \[0, 1\], got 'much'"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        long_pipeline()(0, 2, **arguments)


def test_errors_of_given_latents_and_at_the_call_of_a_stream():
    pipe = long_pipeline()
    given = noise_latents(pipe, 1)
    with pytest.raises(UserError, match="those of one clip: leave out num_frames=9"):
        pipe(0, num_frames=9, dynamics=given)
    with pytest.raises(UserError, match="structure is given and stays: leave out structure_strength=0.5"):
        pipe.stream(0, 9, structure=given, structure_strength=0.5)
    with pytest.raises(UserError, match="class_id=7 is not in 0 to 2"):
        pipe.stream(7, 9)
    with pytest.raises(TypeError, match="nummer"):
        pipe.stream(0, 9, nummer=3)


def test_a_transformer_without_times_of_frames_says_what_trains_it():
    pipe = tiny_pipeline(num_frames=FRAMES, independent_times=True)
    assert pipe(0, 2, num_frames=6).frames.shape[1] == 6
    with pytest.raises(UserError, match="num_frames=9 is longer than a clip of 8 frames.*--objective.history_share"):
        pipe(0, 2, num_frames=9)


def test_a_stream_holds_one_clip_at_a_time():
    pipe, alive = long_pipeline(), []
    for out in pipe.stream(0, 40, num_inference_steps=1):
        assert sum(reference() is not None for reference in alive) == 0
        alive.append(weakref.ref(out.frames))
        del out
    assert len(alive) == 9


MEMORY = """
import resource, sys
from tiny_models import tiny_pipeline
from pipelines.sample import main

tiny_pipeline(num_frames=8, sample_size=64, independent_times=True, frame_times=True).save_pretrained("pipeline")
def sample(num_frames):
    main(["--pipeline", "pipeline", "--class", "all", "--num-videos", "2", "--batch-size", "6", "--device", "cpu",
          "--num-inference-steps", "1", "--num-frames", str(num_frames), "--out", "videos"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
short, long = sample(64), sample(448)
print("grown", long - short)
"""


def test_memory_does_not_grow_with_the_length(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    grown = int(done.stdout.split("grown")[1])
    all_frames = (
        6 * (448 - 64) * 64 * 64 * 3
    )  # more bytes of the files; as float32, as they are decoded, four times that
    assert grown < all_frames, done.stdout
