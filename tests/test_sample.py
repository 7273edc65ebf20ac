"""The sample command, from a pipeline folder to files."""

import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_pipeline
from video_files import make_video

from autoencoder import AutoencoderVidTwin, VidTwinLatents
from autoencoder.common.files import atomic_path
from autoencoder.common.pictures import sheet, unit_to_uint8
from autoencoder.data.video_io import write_video
from pipelines import VidTwinDiffusionPipeline, sampling
from pipelines.conditioning import read_latents
from pipelines.file_names import class_file_names
from pipelines.sample import main
from pipelines.sampling import class_ids


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
        "grid.mp4",
        "sheet.png",
    ]
    printed = capsys.readouterr().out
    assert "videos 1 to 3 of 4: sampling" in printed and "FLOP" in printed and "peak memory" in printed
    assert "wrote 4 videos (16 x 16, shown at 256 x 256 (nearest)), sheet.png and grid.mp4 to" in printed
    with Image.open(tmp_path / "a" / "sheet.png") as image:
        assert image.width >= 4 * 96 and image.height > 4 * 96


@pytest.mark.parametrize(
    "flags, size, files",
    [
        (["--format=gif"], "16 x 16, shown at 256 x 256 (nearest)", ["Band_Marching_0.gif", "YoYo_0.gif", "grid.gif"]),
        (["--format=webp", "--upscale=bicubic"], "16 x 16, shown at 256 x 256 (bicubic)", None),
        (["--upscale=none", "--grid=false"], "16 x 16", ["Band_Marching_0.mp4", "YoYo_0.mp4"]),
    ],
)
def test_files_are_of_the_wanted_format_and_size(folder, tmp_path, capsys, flags, size, files):
    main(["--pipeline", str(folder), "--class=all", "--num-inference-steps=2", "--out", str(tmp_path), *flags])
    files = files or ["Band_Marching_0.webp", "YoYo_0.webp", "grid.webp"]
    assert f"wrote 2 videos ({size}), " in capsys.readouterr().out and names(tmp_path) == [*files, "sheet.png"]


def test_a_rate_that_a_gif_cannot_have_is_refused_before_any_work(folder, tmp_path):
    with pytest.raises(ValueError, match="fps=60.0: a GIF shows at most 50 frames per second, --format webp"):
        main(["--pipeline", str(folder), "--class=all", "--out", str(tmp_path), "--format=gif", "--fps=60"])
    assert not names(tmp_path)


def test_videos_of_odd_sides(tmp_path):
    tiny_pipeline(sample_size=25, patch_size=5).save_pretrained(tmp_path / "pipeline")
    common = ["--pipeline", str(tmp_path / "pipeline"), "--class=0", "--num-inference-steps=1", "--device=cpu"]
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="'mp4' takes no odd sides, and the videos have 25 x 25: give --format webp"):
        main([*common, "--out", str(out), "--upscale=none"])
    assert not out.exists()
    main([*common, "--out", str(out), "--upscale=none", "--format=webp"])
    main([*common, "--out", str(out)])
    assert names(out) == ["Circle_Left_0.mp4", "Circle_Left_0.webp", "sheet.png"]


def test_all_stands_alone(folder, tmp_path):
    with pytest.raises(ValueError, match="--class all is every class, and stands alone: got YoYo, All"):
        main(["--pipeline", str(folder), "--class=YoYo", "--class=All", "--out", str(tmp_path / "out")])


def test_a_video_depends_on_its_class_and_seed_alone(folder, tmp_path, monkeypatch):
    written = {}
    monkeypatch.setattr(sampling, "write_video", lambda path, frames, *_: written.update({path: frames.astype(int)}))
    common = ["--pipeline", str(folder), "--num-inference-steps", "2", "--device", "cpu"]
    main([*common, "--class", "all", "--out", str(tmp_path / "all"), "--num-videos", "2"])
    main([*common, "--class", "1", "--out", str(tmp_path / "one"), "--seed", "1"])
    assert [path.name for path in written if path.parent.name == "one"] == ["YoYo_1.mp4"]
    one, same, other = (
        written[tmp_path / name] for name in ("one/YoYo_1.mp4", "all/YoYo_1.mp4", "all/Band_Marching_1.mp4")
    )
    # Products of another batch size may round to the next level.
    assert np.abs(one - same).max() <= 1 and np.abs(one - other).max() > 1


ODD_NAMES = (
    *("a b", "a_b", "a+b", "A b", "a_b-1", "a_b-0-0"),
    *("..", ".", "/", "../../etc/passwd", "", "é", "e\u0301", "É", "ﬁn", "FIN", "straße", "STRASSE"),
    *("\udcff", "\udcfe", "x" * 400, "x" * 399 + "y", "日本語" * 100, "sheet", "a b_1", "nul\0", "-", "_"),
)


def test_every_class_has_file_names_of_its_own(tmp_path):
    found = class_file_names(ODD_NAMES)
    assert len({unicodedata.normalize("NFD", name.lower()) for name in found}) == len(ODD_NAMES)
    assert len({unicodedata.normalize("NFKC", name.casefold()) for name in found}) == len(ODD_NAMES)
    for name in found:
        with atomic_path(tmp_path / f"{name}_123456789012.mp4") as temporary:
            temporary.touch()
        assert not name.startswith(".") and (tmp_path / f"{name}_123456789012.mp4").is_file()
    assert len(names(tmp_path)) == len(ODD_NAMES)
    assert class_file_names(["Band Marching", "YoYo", "v1.0-b"]) == ["Band_Marching", "YoYo", "v1.0-b"]
    assert class_file_names(["a b", "a_b"]) == ["a_b-0", "a_b-1"]


def test_a_file_for_every_video_that_is_asked_for(tmp_path, capsys):
    """Classes alike but for punctuation and case, and classes that are asked for twice."""
    tiny_pipeline(names=("run fast", "run, fast", "Run Fast")).save_pretrained(tmp_path / "pipeline")
    common = ["--pipeline", str(tmp_path / "pipeline"), "--num-inference-steps=2", "--device=cpu"]
    asked = ["--class=run, fast", "--class=2", "--class=1", "--num-videos=2", "--seed=3"]
    main([*common, *asked, "--out", str(tmp_path / "out")])
    expected = [f"run_fast-1_{seed}.mp4" for seed in (3, 4, 5, 6)] + [f"Run_Fast-2_{seed}.mp4" for seed in (3, 4)]
    assert names(tmp_path / "out") == sorted([*expected, "grid.mp4", "sheet.png"])
    printed = capsys.readouterr().out
    assert "wrote 6 videos" in printed and "replaced" not in printed

    other = tmp_path / "out" / "mine.mp4"
    other.write_bytes(b"something else")
    main([*common, "--class=all", "--seed=6", "--out", str(tmp_path / "out")])
    assert "1 of these videos are in" in (printed := capsys.readouterr().out) and "run_fast-1_6.mp4" in printed
    assert "wrote 3 videos" in printed and len(names(tmp_path / "out")) == 6 + 2 + 3
    assert other.read_bytes() == b"something else"


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


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """A pipeline of two classes that takes either latent as given, and a video."""
    path = tmp_path_factory.mktemp("conditional")
    tiny_pipeline(names=("Band Marching", "YoYo"), independent_times=True).save_pretrained(path / "pipeline")
    make_video(path / "source.mp4")
    return path


def test_one_latent_from_a_file(conditional, tmp_path, monkeypatch):
    outputs = []

    def keep(pipe, latents, chunk_size):
        outputs.append(latents)
        return original(pipe, latents, chunk_size)

    original = VidTwinDiffusionPipeline._decode
    monkeypatch.setattr(VidTwinDiffusionPipeline, "_decode", keep)
    vae = AutoencoderVidTwin.from_pretrained(conditional / "pipeline", subfolder="vae")
    source = conditional / "source.mp4"
    given = read_latents(source, vae, clip_fps=None, clip_start=1.0)
    given.save(tmp_path / "given.safetensors")
    common = ["--pipeline", str(conditional / "pipeline"), "--class=all", "--num-inference-steps=2", "--device=cpu"]
    common += ["--out", str(tmp_path / "out"), "--batch-size=1"]
    main([*common, "--structure", str(source), "--clip-fps=null", "--clip-start=1"])
    main([*common, "--structure", str(tmp_path / "given.safetensors")])
    main([*common, "--dynamics", str(tmp_path / "given.safetensors")])
    assert [torch.equal(out.structure, given.structure) for out in outputs] == [True] * 4 + [False] * 2
    assert [torch.equal(out.dynamics, given.dynamics) for out in outputs] == [False] * 4 + [True] * 2
    assert torch.equal(outputs[0].dynamics, outputs[2].dynamics) and names(tmp_path / "out")[-1] == "sheet.png"


def test_errors_of_a_given_latent(conditional, folder, tmp_path):
    source = str(conditional / "source.mp4")
    common = ["--class=0", "--num-inference-steps=2", "--out", str(tmp_path)]
    pipeline = ["--pipeline", str(conditional / "pipeline")]
    with pytest.raises(ValueError, match="--structure and --dynamics are both given"):
        main([*common, *pipeline, "--structure", source, "--dynamics", source])
    with pytest.raises(ValueError, match="not trained with independent_times"):
        main([*common, "--pipeline", str(folder), "--structure", source])
    latents = read_latents(source, tiny_pipeline().vae)
    VidTwinLatents.cat([latents] * 2).save(tmp_path / "two.safetensors")
    with pytest.raises(
        ValueError, match="--dynamics .*two.safetensors holds the latents of 2 clips: give those of one"
    ):
        main([*common, *pipeline, "--dynamics", str(tmp_path / "two.safetensors")])
    with pytest.raises(ValueError, match="device='tpu9' is no device"):
        main([*common, *pipeline, "--device", "tpu9"])
    assert names(tmp_path) == ["two.safetensors"]


def test_a_long_video_is_written_as_its_clips_come(tmp_path):
    pipe = tiny_pipeline(num_frames=8, independent_times=True, frame_times=True)
    pipe.save_pretrained(tmp_path / "pipeline")
    common = ["--pipeline", str(tmp_path / "pipeline"), "--class=0", "--class=2", "--num-inference-steps=2"]
    common += ["--num-frames", "21", "--overlap", "2", "--structure-strength", "0.5", "--device", "cpu"]
    main([*common, "--num-videos", "2", "--seed", "4", "--out", str(tmp_path / "videos")])
    out = pipe([0, 0, 2, 2], 2, generator=[4, 5, 4, 5], num_frames=21, overlap=2, structure_strength=0.5)
    (tmp_path / "call").mkdir()
    for name, frames in zip(
        ("Circle_Left_4", "Circle_Left_5", "Square_Left_4", "Square_Left_5"), out.frames, strict=True
    ):
        write_video(tmp_path / "call" / f"{name}.mp4", unit_to_uint8(frames), 8, "nearest")
        written = (tmp_path / "videos" / f"{name}.mp4").read_bytes()
        assert written == (tmp_path / "call" / f"{name}.mp4").read_bytes()
    rows = [("", unit_to_uint8(frames)) for frames in out.frames]
    with Image.open(tmp_path / "videos" / "sheet.png") as image:
        assert image.width == sheet(rows).width, "as many frames as of the whole video"
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        main([*common, "--num-frames", "0", "--out", str(tmp_path / "none")])
    with pytest.raises(ValueError, match="format='gif': a video longer than a clip .* --format mp4"):
        main([*common, "--format", "gif", "--out", str(tmp_path / "none")])
    with pytest.raises(ValueError, match="overlap=8: clips of 8 frames"):
        main([*common, "--overlap", "8", "--out", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_guidance_reaches_the_pipeline(folder, tmp_path, monkeypatch):
    calls = []
    original = VidTwinDiffusionPipeline.__call__
    monkeypatch.setattr(VidTwinDiffusionPipeline, "__call__", lambda *a, **k: calls.append(k) or original(*a, **k))
    common = ["--pipeline", str(folder), "--class=0", "--num-inference-steps=2", "--out", str(tmp_path)]
    main([*common, "--guidance-scale", "[3, 1.5]", "--guidance-interval", "[0.2, 0.8]"])
    main([*common, "--guidance-scale", "2"])
    first, second = calls
    assert tuple(first["guidance_scale"]) == (3, 1.5) and tuple(first["guidance_interval"]) == (0.2, 0.8)
    assert second["guidance_scale"] == 2 and tuple(second["guidance_interval"]) == (0, 1)
