"""Videos enlarged to be looked at: what is written, and what comes back where they are read as data."""

import av
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from tiny_models import tiny_vae

from autoencoder.common.errors import UserError
from autoencoder.common.upscaling import repeats, unrepeated, upscaled
from autoencoder.data import Shapes
from autoencoder.data.video_io import ClipReader, UnreadableVideo, index_frames, resized, write_video
from autoencoder.whole_videos.encoded_video import encode_video
from autoencoder.whole_videos.video_file import open_file
from pipelines.grid import video_grid


def noise(height: int, width: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "height, width, upscale, factor, note",
    [
        (20, 32, "nearest", 8, "32 x 20, shown at 256 x 160 (nearest)"),
        (20, 30, "nearest", 9, "30 x 20, shown at 270 x 180 (nearest)"),
        (224, 224, "bicubic", 2, "224 x 224, shown at 448 x 448 (bicubic)"),
        (25, 25, "nearest", 12, "25 x 25, shown at 300 x 300 (nearest)"),
        (21, 30, "bicubic", 10, "30 x 21, shown at 300 x 210 (bicubic)"),
        (33, 257, "nearest", 1, "257 x 33"),
        (32, 256, "nearest", 1, "256 x 32"),
        (32, 300, "bicubic", 1, "300 x 32"),
        (32, 32, "none", 1, "32 x 32"),
    ],
)
def test_the_smallest_whole_factor_to_256_pixels(height, width, upscale, factor, note):
    frames = noise(height, width)
    enlarged, said = upscaled(frames, upscale)
    assert enlarged.shape == (2, factor * height, factor * width, 3) and said == note
    if upscale == "nearest":
        assert np.array_equal(enlarged, frames.repeat(factor, axis=1).repeat(factor, axis=2))
        times = repeats(said, factor * width, factor * height)
        assert times == factor and torch.equal(unrepeated(torch.from_numpy(enlarged), times), torch.from_numpy(frames))
    else:
        assert repeats(said, factor * width, factor * height) == 1


@pytest.mark.parametrize(
    "note",
    [None, "", "holidays", "32 x 32, shown at 128 x 128 (nearest)", "0 x 0, shown at 256 x 256 (nearest)"]
    + ["100 x 100, shown at 256 x 256 (nearest)", "32 x 64, shown at 256 x 256 (nearest)"],
)
def test_a_note_that_does_not_fit_the_picture_says_nothing(note):
    assert repeats(note, 256, 256) == 1


@pytest.mark.parametrize("ending, most", [("mp4", 3), ("gif", 0)])
def test_an_enlarged_video_is_read_as_it_was(tmp_path, ending, most):
    """An antialiased resize alone would mix each pixel with its neighbours; 256 pixels also keep all of the colours."""
    clip = Shapes(8, 32, "val").clip(3)
    path = tmp_path / f"clip.{ending}"
    write_video(path, clip, 8, "nearest")
    assert index_frames(path).repeats == open_file(path).repeats == 8
    for decoder in ("pyav", "auto"):
        back = ClipReader(8, 32, None, decoder=decoder).read(path)
        assert (back.float() - clip.float()).abs().mean() <= most
    shown = ClipReader(8, None, None).read(path)
    assert shown.shape == (8, 256, 256, 3)
    plain = resized(shown, 32)
    assert (plain.float() - clip.float()).abs().max() > 2 * max(most, (back.float() - clip.float()).abs().max())


@pytest.mark.parametrize("side", [9, 25])
def test_an_enlarged_video_of_odd_sides_goes_into_every_format(tmp_path, side):
    for ending in ("mp4", "gif", "webp"):
        write_video(tmp_path / f"clip.{ending}", noise(side, side), 8, "nearest")
    assert ClipReader(2, side, None).read(tmp_path / "clip.mp4").shape == (2, side, side, 3)


def test_a_whole_video_is_encoded_as_it_was(tmp_path):
    model = tiny_vae().eval()
    clip = noise(16, 16, count=4) // 64 * 64  # of so few colours that a GIF loses nothing
    encoded = []
    for upscale in ("nearest", "none"):
        write_video(tmp_path / f"{upscale}.gif", clip, 8, upscale)
        encoded.append(encode_video(model, open_file(tmp_path / f"{upscale}.gif"), "pad", 0))
    assert torch.equal(encoded[0].latents.structure, encoded[1].latents.structure)
    assert (encoded[0].format.width, encoded[1].format.width) == (256, clip.shape[2])


def test_files_say_what_they_show(tmp_path):
    note = write_video(tmp_path / "a.mp4", noise(16, 16), 8, "bicubic")
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.metadata["comment"] == note == "16 x 16, shown at 256 x 256 (bicubic)"
    write_video(tmp_path / "a.webp", noise(16, 16), 8, "nearest")
    with Image.open(tmp_path / "a.webp") as webp:
        assert webp.getexif()[ExifTags.Base.ImageDescription] == "16 x 16, shown at 256 x 256 (nearest)"
        assert webp.size == (256, 256)
    with pytest.raises(UnreadableVideo, match="a.webp: FFmpeg reads no moving WebP: give the video as mp4 or GIF"):
        ClipReader(2, 16, None).read(tmp_path / "a.webp")


def plain_clips(count: int) -> list[np.ndarray]:
    """Clips of two frames of 8 x 8 pixels, each of one colour of its own; text is grey."""
    return [np.full((2, 8, 8, 3), (200, index, 90), dtype=np.uint8) for index in range(count)]


def shows(grid: np.ndarray, index: int) -> np.ndarray:
    """bool (..., H, W): where a clip of `plain_clips` is seen."""
    return (grid == (200, index, 90)).all(axis=-1)


def corner(picture: np.ndarray, index: int) -> tuple[int, int]:
    """Top and left of a clip of `plain_clips`, whose panel is 128 pixels wide and high."""
    rows, columns = (shows(picture, index).sum(axis=axis) for axis in (1, 0))
    assert (rows.max(), columns.max()) == (128, 128)
    return int(np.flatnonzero(rows)[0]), int(np.flatnonzero(columns)[0])


def test_a_grid_has_a_row_for_every_class():
    grid = video_grid(plain_clips(5), ["run", "walk", "run", "walk", "run"], ["a", "b", "c", "d", "e"])
    tops, lefts = zip(*(corner(grid[1], index) for index in range(5)), strict=True)
    assert tops[0] == tops[2] == tops[4] < tops[1] == tops[3]
    assert lefts[0] == lefts[1] < lefts[2] == lefts[3] < lefts[4]


@pytest.mark.parametrize("classes", [None, [f"class {index}" for index in range(10)]])
def test_a_grid_of_single_videos_has_even_lines(classes):
    grid = video_grid(plain_clips(10), classes)
    tops, lefts = zip(*(corner(grid[0], index) for index in range(10)), strict=True)
    assert len(set(tops)) == 2 and len(set(lefts[:5])) == 5 and lefts[:5] == lefts[5:]
    assert not any(side % 2 for side in grid.shape[1:3])


def test_a_grid_of_seven_has_a_line_that_is_not_full_and_one_of_one_is_the_video():
    grid = video_grid(plain_clips(7))
    tops, lefts = zip(*(corner(grid[0], index) for index in range(7)), strict=True)
    assert lefts[:3] == lefts[4:] and len(set(lefts)) == 4 and len(set(tops)) == 2
    assert shows(video_grid(plain_clips(1)), 0).sum() == 2 * 256**2


@pytest.mark.parametrize(
    "shapes, message",
    [
        ([(3, 8, 8, 3), (2, 8, 8, 3)], r"must be of one shape, got \(2, 8, 8, 3\), \(3, 8, 8, 3\)$"),
        ([(2, 8, 8, 3), (2, 8, 16, 3)], r"must be of one shape, got \(2, 8, 8, 3\), \(2, 8, 16, 3\)$"),
        ([], "must be of one shape, got none$"),
    ],
)
def test_a_grid_of_different_videos_is_refused(shapes, message):
    with pytest.raises(UserError, match=message):
        video_grid([np.zeros(shape, dtype=np.uint8) for shape in shapes])


def test_a_grid_shows_so_many_videos_at_most():
    grid = video_grid(plain_clips(65), upscale="none")
    assert shows(grid, 63).any() and not shows(grid, 64).any()
    assert max(video_grid(plain_clips(65)).shape[1:3]) < 4096  # what H.264 decoders take
