"""What users of diffusers' own pipelines type works here in the same way."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoModel, DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import export_to_gif
from PIL import Image
from tiny_models import NAMES, max_difference, tiny_pipeline

from autoencoder import AutoencoderVidTwin
from autoencoder.common.errors import UserError
from autoencoder.data.video_io import ClipReader
from pipelines import VidTwinDiffusionPipeline, save_video
from pipelines.schedulers import convert_scheduler

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation",  # in diffusers' schedulers
    "ignore:.*torch_dtype.* is deprecated:FutureWarning",
)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline().save_pretrained(path)
    return path


# D1: reading and building.


def test_the_base_class_reads_a_folder(folder):
    pipe = DiffusionPipeline.from_pretrained(folder)
    assert type(pipe) is VidTwinDiffusionPipeline
    assert np.array_equal(pipe(0, 2, generator=3).frames, tiny_pipeline()(0, 2, generator=3).frames)


@pytest.mark.parametrize("imports", ["vidtwin, diffusers", "diffusers, pipelines"])
def test_the_base_class_reads_a_folder_in_a_process_that_only_imports_a_package(folder, imports):
    code = f"import importlib.util, sys; importlib.util.find_spec('diffusers'); import {imports}; "
    code += "print(type(diffusers.DiffusionPipeline.from_pretrained(sys.argv[1])), diffusers.DDIMScheduler); "
    code += "assert not hasattr(diffusers, 'Nothing')"
    command = [sys.executable, "-c", code, str(folder)]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "VidTwinDiffusionPipeline" in out.stdout and "DDIMScheduler" in out.stdout


def test_importing_a_package_imports_nothing_heavy():
    code = "import sys, pipelines, vidtwin; print([name for name in ('torch', 'diffusers') if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("keyword", ["dtype", "torch_dtype"])
def test_reading_in_bfloat16(folder, keyword):
    pipe = DiffusionPipeline.from_pretrained(folder, **{keyword: torch.bfloat16})
    assert pipe.dtype == pipe.vae.dtype == pipe.transformer.dtype == torch.bfloat16
    assert np.isfinite(pipe([0, 1], 2, generator=0).frames).all()


def test_variants_and_other_options_of_reading(folder, tmp_path):
    pipe = VidTwinDiffusionPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    pipe.save_pretrained(tmp_path, variant="fp32")
    assert (tmp_path / "vae" / "diffusion_pytorch_model.fp32.safetensors").is_file()
    again = DiffusionPipeline.from_pretrained(tmp_path, variant="fp32", transformer=pipe.transformer)
    assert again.transformer is pipe.transformer
    assert type(AutoModel.from_pretrained(str(folder), subfolder="vae")) is AutoencoderVidTwin


def test_a_pipeline_from_the_components_of_another():
    pipe = tiny_pipeline()
    expected = pipe(1, 2, generator=0).frames
    assert set(pipe.components) == {"vae", "transformer", "scheduler"}
    for other in (VidTwinDiffusionPipeline(**pipe.components), VidTwinDiffusionPipeline.from_pipe(pipe)):
        assert other.transformer is pipe.transformer
        assert np.array_equal(other(1, 2, generator=0).frames, expected)


# D2: the loop.


def test_a_callback_ends_the_sampling():
    pipe = tiny_pipeline()
    seen = []

    def stop(pipe, step, timestep, kwargs):
        assert pipe.current_timestep is timestep and pipe.num_timesteps == 6 and not pipe.interrupt
        seen.append(kwargs["latents"])
        pipe._interrupt = step == 2
        return kwargs

    out = pipe(0, 6, generator=0, output_type="latent", callback_on_step_end=stop)
    assert len(seen) == 3 and pipe.interrupt and pipe.current_timestep is None
    expected = pipe.transformer.denormalize(pipe.transformer.layout.unpack(seen[-1]))
    assert max_difference(out.frames, expected) == 0
    whole = pipe(0, 6, generator=0, output_type="latent")
    assert not pipe.interrupt and 2 * out.cost.sampling.flops == whole.cost.sampling.flops
    assert pipe(0, 6, generator=0, callback_on_step_end=stop).frames.shape == (1, 4, 16, 16, 3)


class Zeros(PipelineCallback):
    tensor_inputs = ["latents"]

    def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
        return {"latents": torch.zeros_like(callback_kwargs["latents"])}


class PlusOne(Zeros):
    def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
        return {"latents": callback_kwargs["latents"] + 1}


def test_callbacks_of_diffusers():
    pipe = tiny_pipeline()
    mean = torch.tensor(pipe.transformer.config.structure_mean)
    std = torch.tensor(pipe.transformer.config.structure_std)
    arguments = {"num_inference_steps": 2, "output_type": "latent"}
    zeros = pipe(0, callback_on_step_end=Zeros(), **arguments).frames
    assert torch.allclose(zeros.structure[0, :, 0, 0, 0], mean)
    both = MultiPipelineCallbacks([Zeros(), PlusOne()])
    ones = pipe(0, callback_on_step_end=both, callback_on_step_end_tensor_inputs=["ignored"], **arguments).frames
    assert torch.allclose(ones.structure[0, :, 0, 0, 0], mean + std)


def test_what_a_callback_is_given():
    pipe = tiny_pipeline()
    seen = []

    def note(pipe, step, timestep, kwargs):
        seen.append(sorted(kwargs))

    pipe(0, 1, callback_on_step_end=note, callback_on_step_end_tensor_inputs=["latents"])
    for nothing in ([], None):
        pipe(0, 1, callback_on_step_end=note, callback_on_step_end_tensor_inputs=nothing)
    assert seen == [["latents"], [], []]
    with pytest.raises(ValueError, match="may name latents, got 'prompt_embeds'"):
        pipe(0, 1, callback_on_step_end=note, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])


def test_a_callback_changes_the_guidance():
    pipe = tiny_pipeline()
    sizes = []
    pipe.transformer.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))

    def turn_off(pipe, step, timestep, kwargs):
        pipe._guidance_scale = 1.0 if step == 1 else pipe._guidance_scale

    out = pipe(0, 4, 3.0, callback_on_step_end=turn_off)
    assert sizes == [2, 2, 1, 1] and pipe.guidance_scale == 1.0
    assert out.cost.sampling.flops == sum(pipe(0, 2, scale).cost.sampling.flops for scale in (1.0, 3.0))


@pytest.mark.parametrize("scale, guided", [(2.5, True), (1, False), ((1.0, 4.0), True), ((1.0, 1.0), False)])
def test_what_a_call_leaves_on_the_pipeline(scale, guided):
    pipe = tiny_pipeline("sample")
    assert (pipe.interrupt, pipe.current_timestep, pipe.num_timesteps) == (False, None, 0)
    pipe.scheduler = convert_scheduler("HeunDiscreteScheduler", pipe.scheduler.config, "sample")
    pipe(0, 3, scale, output_type="latent")
    assert (pipe.guidance_scale, pipe.do_classifier_free_guidance, pipe.num_timesteps) == (scale, guided, 5)


# D3: arguments in the forms in which they come.


def labels_of(pipe, class_id, **arguments):
    labels = []
    hook = pipe.transformer.register_forward_hook(lambda module, args, output: labels.append(args[2].tolist()))
    pipe(class_id, 1, guidance_scale=1, output_type="latent", **arguments)
    hook.remove()
    return labels[0]


@pytest.mark.parametrize(
    "class_id, labels",
    [
        (np.int64(2), [2]),
        (np.arange(3), [0, 1, 2]),
        (np.array(1), [1]),
        (np.array(["Circle Right", "0"]), [1, 0]),
        (torch.tensor(2), [2]),
        (torch.tensor([1, 2], dtype=torch.int32), [1, 2]),
        ("2", [2]),
        (["1", "square left", 0, np.uint8(2), torch.tensor(1)], [1, 2, 0, 2, 1]),
        ((0, "Circle Right"), [0, 1]),
        (range(2), [0, 1]),
    ],
)
def test_classes_in_every_form(class_id, labels):
    pipe = tiny_pipeline()
    assert labels_of(pipe, class_id) == labels
    assert labels_of(pipe, class_id, num_videos_per_class=np.int64(2)) == [label for label in labels for _ in range(2)]


def test_a_name_of_digits_is_a_name():
    pipe = tiny_pipeline(names=("7", "1", "0"))
    assert [pipe.label(name) for name in ("7", "1", "0", "2")] == [0, 1, 2, 2]


@pytest.mark.parametrize(
    "class_id, error, message",
    [
        (True, TypeError, "class_id must be an id, a class name, or a list of these, got True"),
        (np.array([True]), TypeError, r"class_id must be .*got ndarray bool \(1,\)"),
        (1.0, TypeError, "got 1.0"),
        (torch.tensor([0.0]), TypeError, r"got Tensor torch.float32 \(1,\)"),
        (np.zeros((2, 2), dtype=int), TypeError, r"got ndarray int64 \(2, 2\)"),
        ([[0], [1]], TypeError, r"got a list of 2 \(list\), and in it a list of 1 \(int\)"),
        (None, TypeError, "got None"),
        ({0}, TypeError, "got {0}"),
        ([0, 1.5], TypeError, "and in it 1.5"),
        (np.int64(-1), UserError, "class_id=-1 is not in 0 to 2"),
        ("-1", UserError, "class_id=-1 is not in 0 to 2"),
        ("3", UserError, "class_id=3 is not in 0 to 2"),
        (torch.tensor([0, 9]), UserError, "class_id=9 is not in 0 to 2"),
        ((), UserError, "empty"),
        (np.array([], dtype=int), UserError, "empty"),
        ("", UserError, "there is no class ''"),
    ],
)
def test_what_is_no_class_is_refused_in_one_line(class_id, error, message):
    with pytest.raises(error, match=message) as caught:
        tiny_pipeline()(class_id, 1)
    assert "\n" not in str(caught.value)


def test_generators_in_every_form():
    pipe = tiny_pipeline()

    def frames(generator, classes=(0, 1)):
        return pipe(classes, 2, generator=generator, output_type="latent").frames

    def seeded(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    expected = frames(seeded(3, 4))
    forms = [
        3, np.int64(3), torch.tensor(3), [3, 4], (3, 4), np.array([3, 4]), torch.tensor([3, 4]), range(3, 5),
        tuple(seeded(3, 4)), [3, *seeded(4)], [*seeded(3), np.int32(4)],
    ]  # fmt: skip
    for form in forms:
        assert max_difference(frames(form), expected) == 0
    assert max_difference(frames([5], [0]), frames(5, 0)) == 0
    assert max_difference(frames(seeded(3)[0]), frames(seeded(3)[0])) == 0
    assert max_difference(frames(None), frames(None)) > 0


class OnCuda(torch.Generator):
    device = torch.device("cuda")


@pytest.mark.parametrize(
    "generator, error, message",
    [
        ([3], UserError, "generator is a list of 1 for 2 videos: give one per video"),
        ((3, 4, 5), UserError, "generator is a tuple of 3 for 2 videos"),
        ([], UserError, "generator is a list of 0 for 2 videos"),
        (True, TypeError, "generator must be a torch.Generator, an int seed, or a list of these, got True"),
        ("3", TypeError, "got '3'"),
        (1.5, TypeError, "got 1.5"),
        ([3, None], TypeError, "got None"),
        ([3, 4.0], TypeError, "got 4.0"),
        ([3, OnCuda()], UserError, "the generators lie on cpu and cuda, seeds on cpu: put them on one device"),
        (2**64, UserError, f"the seed {2**64} is not in"),
    ],
)
def test_what_is_no_generator_is_refused_in_one_line(generator, error, message):
    with pytest.raises(error, match=message):
        tiny_pipeline()([0, 1], 1, generator=generator)


def test_numbers_of_numpy_and_torch():
    pipe = tiny_pipeline()
    expected = pipe(0, 2, 3.0, generator=0).frames
    for steps, scale in ((np.int32(2), np.float64(3)), (torch.tensor(2), torch.tensor(3.0)), (2, np.array([3, 3]))):
        assert np.array_equal(pipe(0, steps, scale, generator=0).frames, expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_inference_steps": 2.0}, "num_inference_steps must be a whole number, got 2.0"),
        ({"num_inference_steps": True}, "num_inference_steps must be a whole number, got True"),
        ({"num_videos_per_class": "2"}, "num_videos_per_class must be a whole number, got '2'"),
        ({"num_videos_per_class": -1}, "num_videos_per_class must be at least 1, got -1"),
        ({"guidance_scale": np.zeros((2, 2))}, r"guidance_scale must be finite.* got ndarray float64 \(2, 2\)"),
        ({"guidance_scale": True}, "guidance_scale must be finite.* got True"),
    ],
)
def test_numbers_that_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        tiny_pipeline()(0, **arguments)


def test_noise_of_another_type_is_refused():
    with pytest.raises(TypeError, match=r"latents must be VidTwinLatents, .*got Tensor torch.float32 \(1, 2\)"):
        tiny_pipeline()(0, latents=torch.zeros(1, 2))


# D5: files.


@pytest.mark.parametrize("output_type", ["np", "pt", "pil"])
def test_an_output_is_saved_in_one_line(tmp_path, output_type):
    out = tiny_pipeline()([0, 1], 2, generator=0, output_type=output_type)
    expected = tiny_pipeline()([0, 1], 2, generator=0).frames
    paths = out.save(tmp_path / "new" / "x.mp4", fps=4)
    assert [path.name for path in paths] == ["x-0.mp4", "x-1.mp4"]
    for path, video in zip(paths, expected, strict=True):
        assert ClipReader(4, sample_fps=None).read(path).shape == (4, 256, 256, 3)
        frames = ClipReader(4, 16, sample_fps=None).read(path).numpy() / 255
        assert np.abs(frames - video).mean() < 0.02  # the pixels as they were before they were repeated
    assert save_video(out.frames[0], tmp_path / "x.gif") == "16 x 16, shown at 256 x 256 (nearest)"
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.n_frames == 4 and gif.size == (256, 256)


def test_an_output_is_saved_as_it_is_or_as_one_picture(tmp_path):
    out = tiny_pipeline()([0, 1], 2, generator=0)
    for path in out.save(tmp_path / "x.mp4", upscale="none"):
        assert ClipReader(4, sample_fps=None).read(path).shape == (4, 16, 16, 3)
    assert out.save(tmp_path / "grid.webp", grid=True) == [tmp_path / "grid.webp"]
    with Image.open(tmp_path / "grid.webp") as grid:
        assert grid.n_frames == 4 and grid.width > 2 * 256 and grid.height > 256
    with pytest.raises(UserError, match="upscale='lanczos' is none of nearest, bicubic, none"):
        out.save(tmp_path / "y.mp4", upscale="lanczos")
    assert not list(tmp_path.glob("y*"))


def test_one_video_takes_the_name_as_it_is_and_latents_are_refused(tmp_path):
    pipe = tiny_pipeline()
    assert pipe(0, 1).save(tmp_path / "x.mp4") == [tmp_path / "x.mp4"]
    with pytest.raises(UserError, match="decode them with pipe.vae.decode first"):
        pipe(0, 1, output_type="latent").save(tmp_path / "x.mp4")


def test_gifs_of_diffusers(tmp_path):
    export_to_gif(tiny_pipeline()(0, 1, output_type="pil").frames[0], str(tmp_path / "x.gif"))
    assert (tmp_path / "x.gif").stat().st_size


# D8: casting.


@pytest.mark.parametrize(
    "arguments, keywords",
    [((torch.bfloat16,), {}), (("cpu", torch.bfloat16), {}), ((), {"dtype": torch.bfloat16})],
)
def test_casting_says_nothing(arguments, keywords, caplog):
    pipe = tiny_pipeline()
    loggers = [logging.getLogger("diffusers"), logging.getLogger()]
    loggers[0].addHandler(caplog.handler)
    try:
        pipe.to(*arguments, **keywords)
    finally:
        loggers[0].removeHandler(caplog.handler)
    assert caplog.messages == []
    assert pipe.dtype == torch.bfloat16
    out = pipe(list(NAMES), 3, generator=0)
    assert out.frames.dtype == np.float32 and np.isfinite(out.frames).all()
