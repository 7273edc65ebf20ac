"""The data set of sprites, from a file and from sheets."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sprite_files import write_file
from torch.utils.data import DataLoader

from autoencoder import train as autoencoder_train
from autoencoder.data import DataConfig, Sprites
from autoencoder.data.sprite_sources import (
    CLASS_NAMES,
    COLUMNS,
    SHEETS,
    SHOES,
    SpriteFile,
    SpriteSheets,
    open_source,
)
from autoencoder.data.sprites import characters_of
from autoencoder.data.stream import PositionSampler, TrainingClips, collate
from generator import VidTwinDiT
from generator import train as generator_train

REAL = Path(__file__).parents[2] / "shared" / "sprites" / "sprites.npz"
needs_real = pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is absent")
TRAIN, VAL = (characters_of(split) for split in ("train", "val"))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """Three characters of the training part and two of the held-out one, in turns."""
    characters = [int(TRAIN[0]), int(VAL[0]), int(TRAIN[1]), int(VAL[1]), int(TRAIN[2])]
    return write_file(tmp_path_factory.mktemp("sprites") / "sprites.npz", characters)


def told(clip: torch.Tensor) -> tuple[int, int, list[int]]:
    """Character (modulo 251), action and frames of a clip of `write_file`, which is of one colour per frame."""
    assert torch.equal(clip, clip[:, :1, :1].expand_as(clip))
    colours = clip[:, 0, 0]
    assert len(set(colours[:, 0].tolist())) == len(set(colours[:, 1].tolist())) == 1
    return int(colours[0, 0]), int(colours[0, 1]), colours[:, 2].tolist()


# the data set


def test_the_split_is_the_benchmarks():
    np.random.seed(423)  # noqa: NPY002, as the scripts of the benchmark have it
    order = np.random.permutation(range(0, 6**4))  # noqa: NPY002
    assert (order[:1000] == TRAIN).all() and (order[1000:] == VAL).all() and len(VAL) == 296
    assert TRAIN[:4].tolist() == [1116, 1135, 17, 469], "of numpy's legacy generator, which does not change"


def test_clips_and_what_is_known_of_them(file):
    train, val = Sprites(file), Sprites(file, split="val")
    assert (len(train), len(val)) == (27, 18) and train.class_names == CLASS_NAMES and not train.flip_invariant
    for data, characters in ((train, TRAIN[:3]), (val, VAL[:2])):
        for index in range(len(data)):
            character, action = int(characters[index // 9]), index % 9
            assert (data.character(index), data.label(index)) == (character, action)
            assert np.ravel_multi_index(data.attributes(index), (6, 6, 6, 6)) == character
            clip = data.clip(index, None)
            assert clip.shape == (8, 64, 64, 3) and clip.dtype == torch.uint8
            assert told(clip) == (character % 251, action, list(range(8)))
    assert train.source(10) == f"sprites[character {TRAIN[1]}, walk_left]"
    assert CLASS_NAMES[1] == "walk_left" and CLASS_NAMES[3] == "spellcard_front" and CLASS_NAMES[8] == "slash_right"


def test_a_folder_with_the_file_and_the_config(file):
    by_folder = DataConfig(dataset="sprites", data_root=str(file.parent)).build("val", 8, 64)
    assert torch.equal(by_folder.clip(3), Sprites(file, split="val").clip(3))
    assert by_folder._source is Sprites(file)._source, "the file is read once for both parts"
    assert str(DataConfig(dataset="sprites").root) == "data/sprites"


@pytest.mark.parametrize("num_frames, middle", [(1, 3), (5, 1), (8, 0)])
def test_fewer_frames_are_a_stretch_of_the_clip(file, num_frames, middle):
    data = Sprites(file, num_frames)
    assert told(data.clip(0))[2] == list(range(middle, middle + num_frames))
    starts = [told(data.clip(0, np.random.default_rng(seed)))[2][0] for seed in range(60)]
    assert set(starts) == set(range(9 - num_frames))


def test_other_sizes_are_resized_with_antialiasing(tmp_path):
    video = np.zeros((1, 8, 64, 64, 3), dtype=np.uint8)
    video[..., ::2, :] = 200  # stripes that plain sampling would make all black or all bright
    attributes = np.stack(np.unravel_index(TRAIN[:1], (6, 6, 6, 6)), axis=1)
    np.savez_compressed(tmp_path / "stripes.npz", video=video, label=np.zeros(1, int), attr=attributes)
    clip = Sprites(tmp_path / "stripes.npz", 8, 32).clip(0)
    assert clip.shape == (8, 32, 32, 3) and clip[:, :, 2:-2].min() > 80 and clip[:, :, 2:-2].max() < 120
    assert Sprites(tmp_path / "stripes.npz", 2, 96).clip(0).shape == (2, 96, 96, 3)


def test_companions_are_the_same_character_in_another_action(file):
    data = Sprites(file, split="val")
    for index in (0, 4, 17):
        character, action, _ = told(data.clip(index))
        seen = [told(data.companion(index, np.random.default_rng(seed))) for seed in range(100)]
        assert {companion[0] for companion in seen} == {character}
        assert {companion[1] for companion in seen} == set(range(9)) - {action}
        assert all(companion[2] == list(range(8)) for companion in seen)


def test_companions_of_the_same_clip_begin_later_and_go_round(file, tmp_path):
    alone = Sprites(write_file(tmp_path / "alone.npz", [int(TRAIN[5])], actions=[4]))
    for data, same_clip in ((Sprites(file), True), (alone, True), (alone, False)):
        character, action, _ = told(data.clip(0))
        seen = [told(data.companion(0, np.random.default_rng(seed), same_clip)) for seed in range(60)]
        assert {companion[:2] for companion in seen} == {(character, action)}
        rolled = {tuple(companion[2]) for companion in seen}
        assert rolled == {tuple((later + np.arange(8)) % 8) for later in range(1, 8)}


def test_workers_read_what_one_process_reads(file):
    clips = TrainingClips(Sprites(file, 6), seed=3)
    batches = []
    for workers in (0, 2):
        sampler = PositionSampler(len(clips), 4, seed=3)
        loader = DataLoader(clips, batch_sampler=sampler, num_workers=workers, collate_fn=collate)
        batches.append(next(iter(loader))["sample"]["video"])
    assert torch.equal(*batches)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_frames": 16}, "sprites have 8 frames: num_frames must be 1 to 8, got 16"),
        ({"num_frames": 0}, "num_frames must be 1 to 8, got 0"),
        ({"size": 0}, "size=0"),
        ({"split": "test"}, "split='test' is none of train, val"),
    ],
)
def test_wrong_arguments(file, options, message):
    with pytest.raises(ValueError, match=message):
        Sprites(file, **options)


def test_missing_data_say_what_to_put_where(tmp_path):
    (tmp_path / "body").mkdir()
    for root, problem in ((tmp_path / "none", "it does not exist"), (tmp_path, "it lacks body/0.png, body/1.png, ")):
        with pytest.raises(FileNotFoundError, match=problem) as caught:
            DataConfig(dataset="sprites", data_root=str(root)).build("train", 8, 64)
        for part in (str(root), "sprites.npz", "https://github.com/YingzhenLi/Sprites", "--dataset shapes"):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"video": np.zeros((9, 8, 32, 32, 3), np.uint8)}, r"video is uint8 \(9, 8, 32, 32, 3\) for 9 labels"),
        ({"video": np.zeros((9, 8, 64, 64, 3), np.float32)}, "video is float32"),
        ({"label": np.zeros(8, int)}, r"attr is \(9, 4\) of 0 to 5, not \(8, 4\)"),
        ({"label": np.zeros((9, 1), int)}, r"label is \(9, 1\) of 0 to 0, not \(9,\)"),
        ({"label": np.zeros(0, int), "attr": np.zeros((0, 4), int)}, "label is .* of nothing"),
        ({"label": np.full(9, 9)}, r"label is \(9,\) of 9 to 9, not \(9,\) of 0 to 8"),
        ({"attr": np.full((9, 4), 6)}, "attr is .* of 6 to 6, not .* of 0 to 5"),
        ({"attr": np.zeros((9, 3), int)}, r"attr is \(9, 3\) of 0 to 0, not \(9, 4\)"),
        ({"attr": None}, "attr"),
        ({"label": np.array([{}] * 9)}, "allow_pickle"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, changes, message):
    write_file(tmp_path / "wrong.npz", [int(TRAIN[0])], **changes)
    with pytest.raises(ValueError, match=rf"wrong.npz.*{message}") as caught:
        Sprites(tmp_path / "wrong.npz")
    assert "\n" not in str(caught.value)


def test_damaged_files_are_named(file, tmp_path):
    data, path = file.read_bytes(), tmp_path / "damaged.npz"
    with zipfile.ZipFile(file) as archive:
        inside = archive.getinfo("video.npy").header_offset + 2000
    for damaged in (b"", b"none", data[: len(data) // 2], data[:inside] + b"\0" * 100 + data[inside + 100 :]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged.npz is no file of sprites"):
            SpriteFile(path)


def test_a_split_without_clips(tmp_path):
    path = write_file(tmp_path / "some.npz", [int(TRAIN[0])])
    with pytest.raises(ValueError, match="none of its 9 clips is of a character of split='val'"):
        Sprites(path, split="val")


def test_sprites_have_presets_of_their_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset", "sprites", "--data-root", "sprites.npz", "--max-steps", "7"]
    with torch.device("meta"):
        config, model, _, _ = autoencoder_train.parse(flags)
    assert (config.dataset, config.data_root, config.max_steps) == ("sprites", "sprites.npz", 7)
    assert model.video_shape == (3, 8, 64, 64)
    (tmp_path / "config.json").write_text("{}")
    config, settings, _, _ = generator_train.parse([*flags, "--autoencoder", str(tmp_path)])
    assert (config.dataset, config.max_videos, config.max_steps) == ("sprites", None, 7)
    transformer = VidTwinDiT(
        model.structure_shape, model.dynamics_shape, dynamics_axes=model.dynamics_axes, num_classes=9, **settings
    )
    assert transformer.layout.num_tokens == 10, "one of each query, and four of each axis"


# the sheets


def draw_sheets(root: Path, height: int = 1344) -> Path:
    """Sheets whose every cell is told by its colours: each layer has a stripe of its own, that the next ones leave."""
    for number, name in enumerate(SHEETS):
        layer = len({sheet.split("/")[0] for sheet in SHEETS[: number + 1]}) - 1
        sheet = np.zeros((height, 832, 4), dtype=np.uint8)
        for row in range(height // 64):
            for column in range(13):
                cell = sheet[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]
                cell[10 * layer : 10 * layer + 10] = (10 * row, 10 * column, int(Path(name).stem) + 1, 255)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(root / name, compress_level=1)
    return root


@pytest.fixture(scope="module")
def sheets(tmp_path_factory) -> Path:
    return draw_sheets(tmp_path_factory.mktemp("sheets"))


def test_sheets_give_all_clips(sheets):
    train, val = Sprites(sheets), Sprites(sheets, split="val")
    assert (len(train), len(val)) == (9000, 2664)
    assert {train.character(index) for index in range(9000)} == set(TRAIN.tolist())
    index = next(index for index in range(2664) if len(set(val.attributes(index))) == 4 and val.label(index) == 5)
    clip = val.clip(index)
    assert clip.shape == (8, 64, 64, 3) and clip.is_contiguous()
    expected = [*val.attributes(index), 1]  # of each stripe; the shoes are those of shoes/1.png
    assert clip[:, 5:50:10, 30, 2].unique(dim=0).tolist() == [[value + 1 for value in expected]]
    assert not clip[:, 50:].any(), "black where no layer has anything"
    assert clip[:, 5, 30, 1].tolist() == [0, 10, 20, 30, 40, 50, 40, 60] and (clip[:, 5, 30, 0] == 30).all()
    companion = val.companion(index, np.random.default_rng(0))
    assert (companion[:, 5:50:10, 30, 2] == clip[:, 5:50:10, 30, 2]).all()
    assert not torch.equal(companion, clip)


def test_every_action_takes_its_cells(sheets):
    """By the numbers of the cells, from left to right and from above, in the scripts of the benchmark."""
    first_cells = {"walk": (131, 118, 144), "spellcard": (26, 13, 39), "slash": (182, 169, 195)}  # front, left, right
    source = SpriteSheets(sheets)
    for index, name in enumerate(CLASS_NAMES):
        frames = source.frames(index)[:, 5, 30] // 10
        cells = (13 * frames[:, 0].astype(int) + frames[:, 1] - first_cells[name.split("_")[0]][index % 3]).tolist()
        expected = {"walk": [7, 0, 1, 2, 3, 4, 5, 6], "slash": [0, 1, 2, 3, 4, 5, 4, 0]}
        assert cells == expected.get(name.split("_")[0], [0, 1, 2, 3, 4, 5, 4, 6]), name


def test_layers_cover_one_another_by_their_opacity(sheets, tmp_path):
    for name in SHEETS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(sheets / name)
    colours = {"body/0.png": (200, 0, 0, 255), "topwear/0.png": (0, 100, 0, 128), SHOES: (0, 0, 40, 0)}
    for name, colour in colours.items():
        (tmp_path / name).unlink()
        Image.new("RGBA", (832, 1344), colour).save(tmp_path / name)
    pixel = SpriteSheets(tmp_path).frames(0)[0, 60, 5].tolist()
    assert pixel == pytest.approx([200 * 127 / 255, 100 * 128 / 255, 0], abs=1)


def test_sheets_that_do_not_fit_are_named(sheets, tmp_path):
    for name in SHEETS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(sheets / name)
    (tmp_path / "hair/3.png").unlink()
    with pytest.raises(FileNotFoundError, match="of the sheets it lacks hair/3.png"):
        open_source(tmp_path)
    Image.new("RGBA", (832, 960)).save(tmp_path / "hair/3.png")
    with pytest.raises(ValueError, match="hair/3.png must be .* 832 pixels wide .* it is 832 x 960"):
        open_source(tmp_path)
    (tmp_path / "hair/3.png").write_text("no picture")
    with pytest.raises(ValueError, match="hair/3.png is no picture"):
        open_source(tmp_path)


# the real file


@needs_real
def test_the_real_file_holds_the_benchmark():
    train, val = Sprites(REAL), Sprites(REAL, split="val")
    assert (len(train), len(val)) == (9000, 2664)
    assert train._source._clips._packed.nbytes < 100e6, "compressed, of 1.1 GB"
    assert {train.character(index) for index in range(9000)} == set(TRAIN.tolist())
    assert {val.character(index) for index in range(2664)} == set(VAL.tolist())
    for data in (train, val):
        assert np.bincount([data.label(index) for index in range(len(data))]).tolist() == [len(data) // 9] * 9
    for index in range(0, 2664, 97):
        clip, name = val.clip(index), val.class_names[val.label(index)].split("_")[0]
        assert clip[0, 0, 0].tolist() == [0, 0, 0] and clip.any()
        for frame, column in enumerate(COLUMNS[name]):
            first = COLUMNS[name].index(column)
            assert torch.equal(clip[frame], clip[first]), "a column that is shown twice"
            assert all(not torch.equal(clip[frame], clip[other]) for other in range(first)), "others differ"
