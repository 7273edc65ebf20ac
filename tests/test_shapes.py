"""Moving shapes and their oracle."""

import hashlib
from functools import cache

import numpy as np
import pytest
import torch

from autoencoder.common.errors import UserError
from autoencoder.data.shapes import (
    ALL_CLASS_NAMES,
    CLASS_NAMES,
    MOTIONS,
    SHAPES,
    SPLITS,
    Shapes,
    draw_motion,
    render,
    shapes_of,
)
from autoencoder.metrics.oracle import confirmed, oracle
from generator.config import CacheConfig

SHARE_TOLERANCE = 0.01  # of antialiasing


@cache
def held_out(count: int = 200, num_frames: int = 16, size: int = 32) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Clips (N, T, H, W, 3), and shape and motion of each."""
    data = Shapes(num_frames, size, "val")
    clips = np.stack([data.clip(index).numpy() for index in range(count)])
    return clips, [tuple(data.class_names[data.label(index)].split("_")) for index in range(count)]


def shares_right(clips: np.ndarray, truth: list[tuple[str, str]]) -> tuple[float, float]:
    """Of shapes and of motions."""
    seen = [oracle(clip) for clip in clips]
    shapes = np.mean([verdict.shape == shape for verdict, (shape, _) in zip(seen, truth, strict=True)])
    motions = np.mean([verdict.motion == motion for verdict, (_, motion) in zip(seen, truth, strict=True)])
    return float(shapes), float(motions)


def mattes(clips: np.ndarray) -> np.ndarray:
    """How much of each pixel is foreground, by its distance from the background in the corners: (N, T, H, W)."""
    corners = clips[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].reshape(len(clips), -1, 3)
    background = np.median(corners, axis=1)[:, None, None, None]
    strength = np.linalg.norm(clips / 255 - background / 255, axis=-1)
    return strength / strength.max(axis=(1, 2, 3), keepdims=True)


def test_classes_are_the_full_product():
    assert len(SHAPES) == 5 and len(MOTIONS) == 2
    assert sorted(CLASS_NAMES) == sorted(f"{shape}_{motion}" for shape in SHAPES for motion in MOTIONS)
    data = Shapes(split="val")
    assert [data.label(index) for index in range(20)] == 2 * list(range(10))
    assert data.class_names == CLASS_NAMES and not data.flip_invariant


def test_the_oracle_recognises_real_clips():
    shapes, motions = shares_right(*held_out())
    assert shapes >= 0.99 and motions >= 0.99


def test_the_oracle_sees_no_motion_in_frozen_clips():
    clips, truth = held_out()
    frozen = np.repeat(clips[:, 7:8], clips.shape[1], axis=1)
    shapes, motions = shares_right(frozen, truth)
    assert motions <= 0.6
    assert shapes >= 0.9, "the shape is there all the same"
    noise = np.random.default_rng(0).normal(0, 10, frozen.shape)
    trembling = np.clip(frozen + noise, 0, 255).astype(np.uint8)
    assert {oracle(clip).motion for clip in trembling} == {"none"}


def test_the_oracle_goes_by_pixels():
    """A clip turned by 90 degrees shows the other motion; all shapes but the triangle stay what they are."""
    other = {"horizontal": "vertical", "vertical": "horizontal"}
    clips, truth = held_out()
    chosen = [index for index, (shape, _) in enumerate(truth[:60]) if shape != "triangle"]
    turned = [(truth[index][0], other[truth[index][1]]) for index in chosen]
    shapes, motions = shares_right(np.rot90(clips[chosen], axes=(2, 3)), turned)
    assert shapes >= 0.95 and motions >= 0.95


def test_the_oracle_is_not_fooled_by_what_is_no_clip():
    rng = np.random.default_rng(0)
    shape = (16, 32, 32, 3)
    still = rng.integers(0, 256, (1, *shape[1:]), dtype=np.uint8)
    nothing = [
        *(rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(20)),
        *(np.clip(rng.normal(128, 40, shape), 0, 255).astype(np.uint8) for _ in range(20)),
        *(np.full(shape, value, dtype=np.uint8) for value in (0, 128, 255)),
        np.repeat(still, 16, axis=0),
    ]
    for clip in nothing:
        verdict = oracle(clip)
        assert (verdict.shape, verdict.motion) == ("none", "none")
        assert np.isnan(verdict.colour).all() and np.isnan(verdict.centre).all()


def test_the_oracle_wants_one_colour():
    """A square of two colours, in the place and the size of a clip's, is none of the shapes."""
    clip = np.full((16, 32, 32, 3), 40, dtype=np.uint8)
    for time in range(16):
        clip[time, 10:21, 2 + time : 7 + time] = (230, 40, 40)
        clip[time, 10:21, 7 + time : 13 + time] = (40, 40, 230)
    assert oracle(clip).shape == "none"
    clip[..., 2] = clip[..., 0] = clip[..., [0, 2]].max(axis=-1)
    assert (oracle(clip).shape, oracle(clip).motion) == ("square", "horizontal")


def test_the_oracle_stands_mild_blur_and_noise():
    """As a decoder leaves them."""
    clips, truth = (part[:100] for part in held_out())
    video = torch.from_numpy(clips).flatten(0, 1).permute(0, 3, 1, 2).float()
    video = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(video, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    video += 8 * torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    blurred = video.clamp(0, 255).byte().permute(0, 2, 3, 1).reshape(clips.shape).numpy()
    shapes, motions = shares_right(blurred, truth)
    assert shapes >= 0.9 and motions >= 0.95


@pytest.mark.parametrize("num_frames, size", [(8, 32), (17, 48), (24, 64)])
def test_other_lengths_and_sizes(num_frames, size):
    clips, truth = held_out(50, num_frames, size)
    assert clips.shape == (50, num_frames, size, size, 3) and clips.dtype == np.uint8
    shapes, motions = shares_right(clips, truth)
    assert shapes >= 0.98 and motions >= 0.98


def test_the_oracle_tells_colour_and_place():
    clips, _ = held_out()
    for clip, matte in zip(clips[:20], mattes(clips[:20]), strict=True):
        verdict = oracle(torch.from_numpy(clip))
        brightest = clip[np.unravel_index(matte.argmax(), matte.shape)] / 255
        assert np.abs(verdict.colour - brightest).max() < 0.1
        rows, columns = np.indices(matte.shape[1:]) + 0.5
        expected = np.array([(matte * columns).sum(), (matte * rows).sum()]) / matte.sum() / 32
        assert np.abs(verdict.centre - expected).max() < 0.02


def test_clips_are_a_function_of_the_index():
    train, val = Shapes(split="train"), Shapes(split="val")
    first = [train.clip(index) for index in range(30)]
    again = [Shapes(split="train").clip(index, np.random.default_rng(index)) for index in reversed(range(30))][::-1]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    other = [val.clip(index) for index in range(30)]
    assert len({clip.numpy().tobytes() for clip in first + other}) == 60


@pytest.mark.parametrize(
    "options, digest",
    [
        ((16, 32, "train"), "23ea68ca7f02cf6c"),
        ((16, 32, "val"), "fdd7b5c9426d3366"),
        ((8, 48, "val"), "37cbe7b93d042edf"),
        ((24, 64, "train"), "a94223931c38f697"),
    ],
)
def test_clips_keep_their_bits(options, digest):
    """The digests of 20 clips each, made before contents and motions could be drawn apart."""
    data = Shapes(*options)
    clips = b"".join(data.clip(index).numpy().tobytes() for index in range(20))
    assert hashlib.sha256(clips).hexdigest()[:16] == digest


def test_content_in_the_motion_of_another_clip():
    data = Shapes(size=64, split="val")
    for one, other in zip(range(20), range(7, 27), strict=True):
        content, motion = data.content(one), data.motion(other)
        mixed = render(content, motion, data.size)
        verdict = oracle(mixed)
        assert f"{verdict.shape}_{verdict.motion}" == f"{content.shape}_{motion.axis}"
        assert np.abs(verdict.colour - content.colour).max() < 0.02
        assert np.abs(mixed[0, 0, 0].numpy() / 255 - content.background).max() < 0.01
        matte = mattes(mixed.numpy()[None])[0]
        x, y = (matte.sum(axis=axis) @ (np.arange(64) + 0.5) / matte.sum(axis=(1, 2)) for axis in (1, 2))
        low, high = content.extent[[0, 2]], data.size - content.extent[[1, 3]]
        whole = ((motion.path >= low) & (motion.path <= high)).all(axis=1)  # frames that cut nothing off
        assert np.abs(np.stack([x, y], axis=1) - motion.path)[whole].max(initial=0) < 0.5


def test_a_drawn_motion_keeps_the_shape_within_the_frame():
    data, rng = Shapes(), np.random.default_rng(0)
    for index in range(100):
        extent = data.content(index).extent
        for motion in (data.motion(index), draw_motion(MOTIONS[index % 2], extent, 30, 32, rng, later=index)):
            assert (motion.path >= extent[[0, 2]]).all() and (motion.path <= 32 - extent[[1, 3]]).all()
            moving = np.ptp(motion.path, axis=0) > 0
            assert moving.tolist() == [motion.axis == "horizontal", motion.axis == "vertical"]


def test_companions_show_the_same_content_in_a_motion_drawn_anew():
    data, rng = Shapes(split="val"), np.random.default_rng(0)
    motions = []
    for index in range(50):
        companion = data.companion(index, rng)
        seen, own = oracle(companion), oracle(data.clip(index))
        assert companion.shape == data.clip(index).shape and companion.dtype == torch.uint8
        assert seen.shape == own.shape and np.abs(seen.colour - own.colour).max() < 0.05
        assert torch.equal(companion[:, 0, 0].median(0).values, data.clip(index)[:, 0, 0].median(0).values)
        assert not torch.equal(companion, data.clip(index))
        motions.append(seen.motion == own.motion)
    assert 0.3 < np.mean(motions) < 0.7, "either axis is as likely"
    again = [data.companion(3, np.random.default_rng(seed)) for seed in (5, 5, 6)]
    assert torch.equal(again[0], again[1]) and not torch.equal(again[0], again[2])


def test_companions_of_the_same_clip_are_later_stretches_of_its_swing():
    data = Shapes(split="val")
    for index in range(20):
        path, later = data.motion(index).path, data.motion(index, later=0.5).path
        assert np.allclose(path[8:], later[:8]), "half a clip later, the second half comes first"
        companion = data.companion(index, np.random.default_rng(index), same_clip=True)
        verdict, own = oracle(companion), oracle(data.clip(index))
        assert (verdict.shape, verdict.motion) == (own.shape, own.motion)
        still = 1 if own.motion == "horizontal" else 0
        assert abs(verdict.centre[still] - own.centre[still]) < 0.02, "the row, or the column, is the clip's"


def test_splits_share_no_index():
    (train, train_count), (val, val_count) = SPLITS["train"], SPLITS["val"]
    assert not set(range(train, train + train_count)) & set(range(val, val + val_count))
    assert (len(Shapes(split="train")), len(Shapes(split="val"))) == (train_count, val_count)
    assert Shapes(split="val").source(3) == f"shapes[{val + 3}]"


def test_area_contrast_and_place():
    clips, _ = held_out()
    area = mattes(clips).mean(axis=(2, 3))  # (N, T)
    assert area.min() >= 0.08 - SHARE_TOLERANCE and area.max() <= 0.20 + SHARE_TOLERANCE
    assert area.min() < 0.1 and area.max() > 0.18, "the whole range is used"
    assert (area.min(axis=1) / area.max(axis=1) > 0.94).all(), "no frame cuts a part of the shape off"
    span = clips.reshape(len(clips), -1, 3).astype(float) / 255
    contrast = np.linalg.norm(span.max(axis=1) - span.min(axis=1), axis=-1)
    assert contrast.min() >= 0.48


def test_draws_differ_within_a_class():
    data = Shapes(split="val")
    seen = [oracle(data.clip(index)) for index in range(0, 300, 10)]
    assert np.std([verdict.colour for verdict in seen], axis=0).min() > 0.15
    along, across = np.std([verdict.centre for verdict in seen], axis=0)
    assert along > 0.01 and across > 0.1


@pytest.mark.parametrize("options", [{"num_frames": 1}, {"size": 31}, {"split": "test"}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        Shapes(**options)


def test_a_sixth_shape_is_in_no_class_unless_it_is_asked_for():
    new = ("diamond_horizontal", "diamond_vertical")
    assert (*CLASS_NAMES, *new) == ALL_CLASS_NAMES and Shapes().class_names == CLASS_NAMES
    default, named = Shapes(), Shapes(classes=CLASS_NAMES[::-1])
    assert all(torch.equal(default.clip(i), named.clip(i)) and default.label(i) == named.label(i) for i in range(11))
    diamonds = Shapes(classes=["diamond_vertical", "diamond_horizontal"])
    assert diamonds.class_names == new and [diamonds.label(i) for i in range(3)] == [0, 1, 0]
    assert diamonds.motion(1).axis == "vertical" and diamonds.content(1).shape == "diamond"
    assert torch.equal(diamonds.companion(3, np.random.default_rng(1))[0, 0, 0], diamonds.clip(3)[0, 0, 0])
    with pytest.raises(UserError, match="there are no moving shapes 'star_vertical', there are: circle_horizontal"):
        Shapes(classes=["star_vertical"])


def test_the_oracle_tells_six_shapes_apart_where_it_is_asked_to():
    data, shapes = Shapes(split="val", classes=ALL_CLASS_NAMES), shapes_of(ALL_CLASS_NAMES)
    clips, names = zip(*((data.clip(i), data.class_names[data.label(i)]) for i in range(48)), strict=True)
    assert confirmed([oracle(clip, shapes) for clip in clips], names) == {"shape": 1.0, "motion": 1.0, "both": 1.0}
    assert "diamond" not in {oracle(clip).shape for clip in clips}
    assert shapes_of(CLASS_NAMES) == shapes_of(["walk_left", ""]) == tuple(SHAPES)


def test_a_cache_of_the_ten_classes_is_what_it_was():
    plain, chosen = CacheConfig(), CacheConfig(classes=["diamond_vertical", "diamond_horizontal"])
    assert plain.settings["classes"] is None and plain.cache_folder("a" * 64).name == "shapes-aaaaaaaaaaaa"
    assert chosen.settings["classes"] == ["diamond_horizontal", "diamond_vertical"]
    assert chosen.cache_folder("a" * 64) != plain.cache_folder("a" * 64)
