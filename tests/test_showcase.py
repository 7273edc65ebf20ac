"""The pictures of a pipeline: what is written under a clip is what it should show."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_pipeline

from autoencoder.common.pictures import unit_to_uint8
from autoencoder.data.shapes import CLASS_NAMES, SHAPES, Shapes
from autoencoder.metrics.oracle import oracle
from pipelines.showcase import Showcase, write_showcase

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers' schedulers


def showcase(independent_times: bool = True) -> Showcase:
    pipe = tiny_pipeline(names=CLASS_NAMES, independent_times=independent_times, num_frames=8, sample_size=32)
    pipe.vae.eval()
    return Showcase(pipe, num_inference_steps=1, guidance_scale=2.0)


def test_real_clips_are_what_their_labels_say():
    made = showcase()
    rows = [*made.exchanges().rows[:2], made.controls().rows[0], made.reconstructions().rows[0]]
    for row in rows:
        seen = [oracle(clip) for clip in row.clips]
        assert [f"{verdict.shape}, {verdict.motion}" for verdict in seen] == row.labels
    assert [label.split(", ")[0] for label in rows[0].labels] == list(SHAPES)


def test_labels_say_what_an_exchange_and_a_control_should_show():
    made = showcase()
    structure, dynamics, together = ([label.split(", ") for label in row.labels] for row in made.exchanges().rows)
    assert all(one[0] != other[0] and one[1] != other[1] for one, other in zip(structure, dynamics, strict=True))
    assert together == [[one[0], other[1]] for one, other in zip(structure, dynamics, strict=True)]
    given, turned, reshaped = ([label.split(", ") for label in row.labels] for row in made.controls().rows)
    assert all(one[0] == other[0] and one[1] != other[1] for one, other in zip(given, turned, strict=True))
    assert all(one[0] != other[0] and one[1] == other[1] for one, other in zip(given, reshaped, strict=True))


def test_a_sample_is_that_of_its_class_and_a_control_keeps_the_given_latent():
    made = showcase()
    for row in made.samples().rows:
        for clip, label in zip(row.clips, row.labels, strict=True):
            index = CLASS_NAMES.index(label.replace(", ", "_"))
            alone = unit_to_uint8(made.pipe(index, 1, 2.0, generator=index).frames)[0]
            assert (clip.int() - alone.int()).abs().max() <= 1  # in a batch the last bits differ
    asked = []
    made.pipe = lambda labels, **options: asked.append((labels, options)) or made_up(len(labels))
    made.controls()
    (_, first), (_, second) = asked
    assert first["structure"] is second["dynamics"] is made.latents and "dynamics" not in first


def made_up(count: int):
    class Output:
        frames = np.zeros((count, 8, 32, 32, 3), dtype=np.float32)

    return Output


def test_all_pictures_are_written(tmp_path):
    sections = showcase().sections()
    paths = write_showcase(sections, tmp_path / "new")
    assert [path.name for path in paths] == [
        "sheet.png",
        "samples.webp",
        "exchanges.webp",
        "controls.webp",
        "reconstructions.webp",
    ]
    assert np.asarray(Image.open(paths[0])).std() > 1
    for path, section in zip(paths[1:], sections, strict=True):
        with Image.open(path) as picture:
            assert picture.n_frames > 1 and picture.width > 5 * 256 and picture.height > len(section.rows) * 256


def test_without_independent_times_there_are_no_controls():
    sections = showcase(independent_times=False).sections()
    assert [section.name for section in sections] == ["samples", "exchanges", "reconstructions"]


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match="moving shapes are shown, of the classes circle_horizontal, .*not others"):
        Showcase(tiny_pipeline(), num_inference_steps=1, guidance_scale=2.0)


def test_the_sources_are_the_first_of_their_classes():
    clips, made = Shapes(8, 32, "val"), showcase()
    assert torch.equal(made.clips, torch.stack([clips.clip(index) for index in (0, 3, 4, 7, 8)]))
