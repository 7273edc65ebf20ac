"""The pipeline on fake CUDA: no operation mixes devices, and no step waits for the device."""

from pathlib import Path

import pytest
import torch
from fakecuda import FakeCuda
from test_sample_evaluation import Colours
from tiny_models import noise_latents, tiny_pipeline
from video_files import make_video

from autoencoder.data.shapes import CLASS_NAMES, Shapes
from pipelines import demonstration as demo
from pipelines.evaluation import run as evaluate
from pipelines.recombination import recombine
from pipelines.schedulers import SCHEDULERS, convert_scheduler
from pipelines.without_waiting import solve

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers' schedulers

# What a network answers makes no difference to how a scheduler works on it, but for its kind.
CASES = [("flow", name) for name in SCHEDULERS["flow"]] + [
    ("v_prediction", name) for name in SCHEDULERS["v_prediction"]
]
CASES += [("sample", "DDIMScheduler"), ("epsilon", "DDIMScheduler"), ("flow_sample", "FlowMatchHeunDiscreteScheduler")]
PIPELINE = "pipelines/pipeline_vidtwin.py "
# Once per call, however many steps there are.
ONCE = (
    "autoencoder/common/cost.py measure: torch.cuda.synchronize",  # the clock, at the beginning and at the end
    PIPELINE + "_prepare: labels = torch.tensor(",
    PIPELINE + "<genexpr>: randn_tensor(",  # noise of CPU generators, so that a seed means the same everywhere
    PIPELINE + "_sample: if not torch.stack([part.isfinite()",
    "pipelines/conditioning.py __init__: self._is_structure",
    "generator/scale.py <genexpr>: mean, std",
)
GIVEN = (
    "pipelines/conditioning.py ",  # the latent, and where its tokens are
    "pipelines/video_input.py ",  # the range of a video
    "generator/tokens.py ",
    "autoencoder/",  # encoding a video
)
FRAMES = PIPELINE + "_outputs: frames = self.video_processor.postprocess_video("


def shapes_pipeline(names=CLASS_NAMES):
    return tiny_pipeline(names=names, independent_times=True, num_frames=8, sample_size=32)


def on_cuda(pipe, scheduler=None):
    if scheduler is not None:
        pipe.scheduler = convert_scheduler(scheduler, pipe.scheduler.config, pipe.transformer.config.prediction_type)
    return pipe.to("cuda")


@pytest.mark.parametrize("kind, scheduler", CASES)
def test_no_step_waits_for_the_device(kind, scheduler):
    with FakeCuda() as gpu:
        pipe = on_cuda(tiny_pipeline(kind), scheduler)
        gpu.waits.clear()
        out = pipe([0, 1], 4, 3.0, generator=0, output_type="latent")
    assert out.frames.structure.device.type == "cuda"
    gpu.assert_waits_only(*ONCE)
    assert max(gpu.waits[wait] for wait in gpu.waits if wait[0].startswith(ONCE)) <= 4


@pytest.mark.parametrize("settings", [{"guidance_scale": (2.0, 3.0), "guidance_interval": (0.3, 0.7)}, {"eta": 1.0}])
def test_frames_are_copied_once_and_options_wait_no_more(settings):
    with FakeCuda() as gpu:
        pipe = on_cuda(tiny_pipeline("sample"))
        gpu.waits.clear()
        out = pipe(torch.tensor([0, 2]), 3, generator=[3, 4], decode_chunk_size=1, **settings)
    assert out.frames.shape == (2, 4, 16, 16, 3)
    gpu.assert_waits_only(*ONCE, FRAMES)
    assert gpu.count(FRAMES) == 2, "one copy for each video"


def test_a_chain_waits_once_for_each_clip():
    with FakeCuda() as gpu:
        pipe = on_cuda(tiny_pipeline(num_frames=8, independent_times=True, frame_times=True))
        gpu.waits.clear()
        out = pipe([0, 1], 3, generator=0, num_frames=16, structure_strength=0.5, output_type="pt")
    assert out.frames.shape == (2, 16, 3, 16, 16)
    gpu.assert_waits_only(*ONCE, "pipelines/conditioning.py of: ", "pipelines/schedulers.py noised: ")


@pytest.mark.parametrize("numbers", [(1.0,), (-0.7, 1.0), (-2.3, -0.9, 1.0)])
def test_small_systems_are_solved_as_torch_does(numbers):
    matrix = torch.stack([torch.tensor(numbers) ** power for power in range(len(numbers))])  # as in UniPC
    right = torch.tensor([0.6, -0.4, 0.3])[: len(numbers)]
    torch.testing.assert_close(solve(matrix, right), torch.linalg.solve(matrix, right))


@pytest.mark.parametrize(
    "source, name",
    [
        ("latents", "structure"),
        ("tensor", "dynamics"),
        ("video", "dynamics"),
        ("frames", "structure"),
        ("files", "structure"),
    ],
)
def test_a_given_latent_may_lie_anywhere(source, name, tmp_path):
    pipe = tiny_pipeline(independent_times=True)
    latents = noise_latents(pipe, 2)
    latents[0].save(tmp_path / "a.safetensors")
    make_video(tmp_path / "b.mp4")
    sources = {
        "latents": latents,
        "tensor": getattr(latents, name),
        "video": torch.zeros(2, *pipe.vae.video_shape),
        "frames": torch.zeros(2, 4, 16, 16, 3, dtype=torch.uint8).numpy(),
        "files": [tmp_path / "a.safetensors", tmp_path / "b.mp4"],
    }
    with FakeCuda() as gpu:
        pipe = on_cuda(pipe)
        places = ["cpu", "cuda"] if source in ("latents", "tensor", "video") else ["cpu"]
        for place in places:
            given = sources[source].to(place) if len(places) > 1 else sources[source]
            gpu.waits.clear()
            out = pipe([0, 1], 2, generator=0, output_type="latent", **{name: given})
            assert getattr(out.frames, name).device.type == "cuda"
            gpu.assert_waits_only(*ONCE, *GIVEN)


def test_recombination_in_bfloat16():
    with FakeCuda():
        pipe = on_cuda(shapes_pipeline().to(torch.bfloat16))
        summary, pictures = recombine(pipe, Shapes(8, 32, "val"), 10, 1, 2.0)
    assert set(summary["rows"]) == {"S, D | c", "D | S, c", "S | D, c", "real structure", "real dynamics"}
    assert all(clip.device.type == "cpu" for _, clips in pictures for clip in clips)


def test_what_the_demo_measures_and_shows():
    config = demo.DemoConfig(quick=True, num_inference_steps=1)
    with FakeCuda():
        pipe = on_cuda(shapes_pipeline(CLASS_NAMES))
        found = demo.measure(pipe, config)
        trained = demo.about_training(config, pipe, found)
        sections = demo.Showcase(pipe, 1, 2.0).sections()
    assert found.real["samples"] == 1.0 and trained["reconstruction"].keys() == set(demo.VIEWS)
    assert all(clip.device.type == "cpu" for section in sections for row in section.rows for clip in row.clips)


def test_the_evaluation_of_samples(tmp_path, monkeypatch):
    settings = {"num_samples": 4, "seeds": 1, "num_inference_steps": 2, "batch_size": 2, "chunk_size": 2}
    config = evaluate.EvaluateConfig(Path("nowhere"), "shapes", output_dir=tmp_path, **settings)
    with FakeCuda() as gpu:
        pipe = on_cuda(shapes_pipeline())
        monkeypatch.setattr(evaluate, "load_pipeline", lambda *args: pipe)
        report = evaluate.run(config, Colours())
        again = evaluate.run(config, Colours())
    assert report["protocol"]["device"] == "fake GPU" and again["class_shares"] == report["class_shares"]
    assert set(report["class_shares"]) == {"samples", "reconstructions", "real clips"}
    assert len(list(tmp_path.glob("samples/*/*.safetensors"))) == 2
    assert gpu.count("pipelines/evaluation") < 40
