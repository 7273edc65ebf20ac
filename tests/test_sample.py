"""The sample command, from a pipeline folder to files."""

import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny_pipeline

from autoencoder.data.video_io import ClipReader
from pipelines import VidTwinDiffusionPipeline
from pipelines.sample import class_ids, main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline of two classes."""
    pipe = tiny_pipeline(names=("Band Marching", "YoYo"))
    path = tmp_path_factory.mktemp("pipeline")
    pipe.save_pretrained(path)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writes_a_file_per_video_and_a_sheet(folder, tmp_path, capsys):
    main(
        ["--pipeline", str(folder), "--class", "yoyo", "--class=Band Marching", "--out", str(tmp_path / "a")]
        + ["--num-videos", "2", "--num_inference_steps=2", "--seed", "4", "--device", "cpu", "--batch-size", "3"]
    )
    assert names(tmp_path / "a") == [
        "Band_Marching_4.mp4",
        "Band_Marching_5.mp4",
        "YoYo_4.mp4",
        "YoYo_5.mp4",
        "sheet.png",
    ]
    printed = capsys.readouterr().out
    assert "videos 1 to 3 of 4: sampling" in printed and "FLOP" in printed and "peak memory" in printed
    with Image.open(tmp_path / "a" / "sheet.png") as image:
        assert image.width >= 4 * 96 and image.height > 4 * 96


def test_a_video_depends_on_its_class_and_seed_alone(folder, tmp_path):
    common = ["--pipeline", str(folder), "--num-inference-steps", "2", "--device", "cpu"]
    main([*common, "--class", "all", "--out", str(tmp_path / "all"), "--num-videos", "2"])
    main([*common, "--class", "1", "--out", str(tmp_path / "one"), "--seed", "1"])
    assert names(tmp_path / "one") == ["YoYo_1.mp4", "sheet.png"]
    reader = ClipReader(num_frames=4, sample_fps=None)
    one, same, other = (
        np.asarray(reader.read(tmp_path / name)).astype(int)
        for name in ("one/YoYo_1.mp4", "all/YoYo_1.mp4", "all/Band_Marching_1.mp4")
    )
    assert np.abs(one - same).max() <= 2 and np.abs(one - other).max() > 2


def test_a_number_that_is_a_name_is_a_name():
    class Named:
        """What `class_ids` needs of a pipeline whose class folders were called "2" and "10"."""

        class transformer:
            class config:
                id2label = {"0": "10", "1": "2"}
                num_classes = 2

        label = VidTwinDiffusionPipeline.label

    assert class_ids(Named(), ["2", "10", "1"]) == [1, 0, 1]
    assert class_ids(Named(), ["ALL"]) == [0, 1]


def test_another_scheduler_by_name(folder, tmp_path):
    common = ["--pipeline", str(folder), "--class", "0", "--num-inference-steps", "2", "--out", str(tmp_path)]
    main([*common, "--scheduler", "FlowMatchHeunDiscreteScheduler"])
    assert names(tmp_path) == ["Band_Marching_0.mp4", "sheet.png"]
    with pytest.raises(ValueError, match="DDIMScheduler does not fit.*FlowMatchHeunDiscreteScheduler"):
        main([*common, "--scheduler", "DDIMScheduler"])


def test_errors_say_what_is_missing(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no pipeline folder.*python -m generator.train"):
        main(["--pipeline", str(tmp_path / "nowhere"), "--class", "0", "--out", str(tmp_path)])
    with pytest.raises(ValueError, match=r"no class 'yoyos'; the nearest are: YoYo \(1\)"):
        main(["--pipeline", str(folder), "--class", "yoyos", "--out", str(tmp_path)])
    with pytest.raises(ValueError, match="class_id=-1 is not in 0 to 1"):
        main(["--pipeline", str(folder), "--class=-1", "--out", str(tmp_path)])


def test_an_unknown_flag_is_an_error(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--pipeline", str(folder), "--class", "0", "--out", str(tmp_path), "--steps", "3"])
    assert "steps" in capsys.readouterr().err
