"""Pictures hold the frames they were made of."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from autoencoder.common.pictures import (
    GAP,
    PanelRow,
    add_moving_picture,
    gif_bytes,
    moving_panels,
    panel_sheet,
    save_png,
    save_webp,
    sheet,
    to_uint8,
)


def grey_clip(*levels: int, height: int = 6, width: int = 8) -> torch.Tensor:
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, height, width, 3).contiguous()


def test_to_uint8_maps_the_range_and_clamps():
    video = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).view(1, 1, 5, 1, 1).expand(2, 3, 5, 4, 6)
    frames = to_uint8(video)
    assert frames.shape == (2, 5, 4, 6, 3) and frames.dtype == torch.uint8
    assert frames[0, :, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    assert to_uint8(video[0]).shape == (5, 4, 6, 3)


def test_to_uint8_inverts_the_scaling_of_every_level():
    levels = torch.arange(256, dtype=torch.uint8)
    video = (levels.float() / 127.5 - 1).view(1, 256, 1, 1).expand(3, -1, -1, -1)
    assert torch.equal(to_uint8(video)[:, 0, 0, 0], levels)


@pytest.mark.parametrize(
    "video", [torch.zeros(2, 4, 4, 4), torch.zeros(3, 4, 4), torch.zeros(3, 2, 2, 2, dtype=torch.uint8)]
)
def test_to_uint8_refuses_other_layouts(video):
    with pytest.raises(ValueError, match=r"a video is float \(\.\.\., 3, T, H, W\)"):
        to_uint8(video)


def test_to_uint8_paints_no_nan():
    video = torch.zeros(3, 1, 2, 2)
    video[0, 0, 1, 1] = torch.nan
    with pytest.raises(ValueError, match="1 values that are not finite"):
        to_uint8(video)


def test_gif_holds_every_frame():
    frames = grey_clip(0, 90, 180, 250)
    with Image.open(io.BytesIO(gif_bytes(frames, fps=8))) as gif:
        assert gif.n_frames == 4 and gif.info["loop"] == 0 and gif.info["duration"] in (120, 130)
        for index, level in enumerate((0, 90, 180, 250)):
            gif.seek(index)
            assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - level).max() <= 2


@pytest.mark.parametrize("fps, stays", [(8, [120, 130, 130, 120]), (30, [30, 40, 30, 30]), (1000, [20] * 4)])
def test_gif_keeps_the_rate_on_average(fps, stays):
    with Image.open(io.BytesIO(gif_bytes(grey_clip(0, 90, 180, 250), fps, "a comment"))) as gif:
        assert gif.info["comment"] == b"a comment"
        found = []
        for index in range(4):
            gif.seek(index)
            found.append(gif.info["duration"])
    assert found == stays


def test_gif_needs_frames_and_a_rate():
    with pytest.raises(ValueError, match="fps must be positive, got 0"):
        gif_bytes(grey_clip(1, 2), fps=0)
    with pytest.raises(ValueError, match=r"uint8 \(T, H, W, 3\), got float32"):
        gif_bytes(torch.zeros(2, 4, 4, 3), fps=8)


def test_tensorboard_reads_the_moving_picture_back(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        add_moving_picture(writer, "samples/circle", grey_clip(0, 100, 200), step=7, fps=8)
    events = EventAccumulator(str(tmp_path), size_guidance={IMAGES: 0}).Reload()
    (picture,) = events.Images("samples/circle")
    assert (picture.step, picture.height, picture.width) == (7, 6, 8)
    with Image.open(io.BytesIO(picture.encoded_image_string)) as gif:
        assert gif.format == "GIF" and gif.n_frames == 3


def test_sheet_shows_first_and_last_frame_enlarged():
    clip = grey_clip(10, 20, 30, 40, 50)
    picture = np.asarray(sheet([("real", clip)], columns=3, scale=2))
    bottom = picture[-GAP - 1, GAP:]
    assert bottom[[0, 16 + GAP, 2 * (16 + GAP)], 0].tolist() == [10, 30, 50]
    assert (bottom[:16] == 10).all() and (bottom[16 : 16 + GAP] == 255).all()


def test_sheet_has_a_line_per_clip_and_room_for_captions():
    one = sheet([("a", grey_clip(1, 2))])
    two = sheet([("a", [grey_clip(1, 2), grey_clip(3, 4)])])
    assert two.width == one.width and two.height > one.height + 90
    wide = sheet([("a caption that is a good deal longer than its only frame is wide", grey_clip(1))])
    assert wide.width > sheet([("a", grey_clip(1))]).width
    dark = (np.asarray(one)[:20] < 100).any()
    assert dark, "the caption is not to be seen"


def test_sheet_refuses_nothing():
    with pytest.raises(ValueError, match="got 0 rows"):
        sheet([])


def test_save_png_is_exact_and_leaves_no_temporary(tmp_path):
    image = sheet([("x", grey_clip(1, 2))])
    save_png(image, tmp_path / "new" / "sheet.png")
    with Image.open(tmp_path / "new" / "sheet.png") as read:
        assert np.array_equal(np.asarray(read), np.asarray(image))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]


COLOURS = [[(90 * time, 60 * clip, 255) for time in range(3)] for clip in range(4)]  # by clip and frame; text is grey


def two_rows() -> list[PanelRow]:
    """Four plain clips of three frames in their `COLOURS`."""
    clips = [
        torch.tensor(colours, dtype=torch.uint8).view(3, 1, 1, 3).expand(3, 32, 32, 3).contiguous()
        for colours in COLOURS
    ]
    return [PanelRow("first", clips[:2], ["a", "gy"]), PanelRow("second", clips[2:], ["b", "c"])]


def place(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Top, left, height and width of the one rectangle of a colour in a picture (H, W, 3)."""
    rows, columns = (np.flatnonzero((picture == colour).all(axis=-1).any(axis=axis)) for axis in (1, 0))
    height, width = (len(lines) for lines in (rows, columns))
    assert (picture[rows[0] :, columns[0] :][:height, :width] == colour).all()
    return int(rows[0]), int(columns[0]), height, width


def test_moving_panels_show_all_clips_at_the_same_time_and_large():
    frames = moving_panels(two_rows())
    assert frames.dtype == np.uint8 and frames.shape[0] == 3
    for time in range(3):
        first, second, third, fourth = (place(frames[time], colours[time]) for colours in COLOURS)
        assert {found[2:] for found in (first, second, third, fourth)} == {(256, 256)}
        assert first[0] == second[0] and third[0] == fourth[0] > first[0] + 256  # in rows, whatever the labels
        assert first[1] == third[1] and second[1] == fourth[1] > first[1] + 256


def test_a_sheet_of_panels_has_the_first_and_the_last_frame_under_every_label():
    picture = np.asarray(panel_sheet([("title", two_rows()[:1]), ("next", two_rows()[1:])], columns=2))
    assert (picture == 0).all(axis=-1).sum() > 100  # the texts
    for colours in COLOURS:
        assert not (picture == colours[1]).all(axis=-1).any()
        before, after = place(picture, colours[0]), place(picture, colours[2])
        assert before[2:] == (96, 96) and after == (before[0], before[1] + 96 + GAP, 96, 96)
    with pytest.raises(ValueError):
        panel_sheet([("title", [PanelRow("row", two_rows()[0].clips, ["one label"])])])


def test_webp_loops_with_the_frames_it_was_given(tmp_path):
    frames = moving_panels(two_rows())
    save_webp(frames, tmp_path / "new" / "a.webp", fps=8)
    with Image.open(tmp_path / "new" / "a.webp") as webp:
        assert (webp.n_frames, webp.info["loop"], webp.size) == (3, 0, frames.shape[2:0:-1])
        for index, frame in enumerate(frames):
            webp.seek(index)
            webp.load()
            assert webp.info["duration"] == 125
            assert np.abs(np.asarray(webp.convert("RGB")).astype(int) - frame).mean() < 2, index
