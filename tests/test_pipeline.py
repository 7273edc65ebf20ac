"""The pipeline with tiny models."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import NAMES, max_difference, noise_latents, tiny_pipeline

from autoencoder import AutoencoderVidTwin, VidTwinLatents
from autoencoder.common import cost
from autoencoder.common.cost import count_flops
from generator import VidTwinDiT
from pipelines import VidTwinDiffusionPipeline
from pipelines.schedulers import convert_scheduler

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers' schedulers

ROOT = Path(__file__).parents[1]


def test_one_bare_generator_fills_the_batch():
    pipe = tiny_pipeline()
    first, again = (pipe([0, 0], 2, generator=torch.Generator().manual_seed(3)).frames for _ in range(2))
    assert np.array_equal(first, again) and not np.array_equal(first[0], first[1])


def test_guidance_is_the_formula_and_one_skips_the_null_half():
    pipe = tiny_pipeline("sample")
    noise = noise_latents(pipe, 2)
    batch_sizes = []
    pipe.transformer.register_forward_hook(lambda module, args, output: batch_sizes.append(len(args[0])))
    # One step of DDIM returns what the network predicts.
    guided = pipe([0, 1], 1, guidance_scale=3.0, latents=noise, output_type="latent").frames
    plain = pipe([0, 1], 1, guidance_scale=1.0, latents=noise, output_type="latent").frames
    assert batch_sizes == [4, 2]

    layout, time = pipe.transformer.layout, torch.tensor(999)
    null = pipe.transformer(layout.pack(noise), time, torch.full((2,), len(NAMES))).sample
    null = pipe.transformer.denormalize(layout.unpack(null))
    expected = VidTwinLatents(
        null.structure + 3.0 * (plain.structure - null.structure),
        null.dynamics + 3.0 * (plain.dynamics - null.dynamics),
    )
    assert max_difference(guided, expected) < 1e-5
    assert max_difference(guided, plain) > 1e-2


def test_classes_by_id_and_name_in_order():
    pipe = tiny_pipeline()
    labels = []
    pipe.transformer.register_forward_hook(lambda module, args, output: labels.append(args[2].tolist()))
    pipe(["square left", 0], 1, num_videos_per_class=2, output_type="latent")
    pipe("Circle Right", 1, guidance_scale=1, output_type="latent")
    assert labels == [[2, 2, 0, 0, 3, 3, 3, 3], [1]]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"class_id": 3},
            r"class_id=3 is not in 0 to 2; the nearest are: 0 Circle Left, 1 Circle Right, 2 Square Left",
        ),
        ({"class_id": -1}, "class_id=-1 is not in 0 to 2"),
        ({"class_id": "sqare left"}, r"there is no class 'sqare left'; the nearest are: Square Left \(2\)"),
        ({"class_id": []}, "empty list"),
        ({"class_id": 0, "num_inference_steps": 0}, "num_inference_steps must be at least 1, got 0"),
        ({"class_id": 0, "decode_chunk_size": 0}, "decode_chunk_size must be at least 1, got 0"),
        ({"class_id": 0, "guidance_scale": float("nan")}, "guidance_scale must be finite"),
        ({"class_id": 0, "output_type": "numpy"}, "output_type='numpy' is none of np, pt, pil, latent"),
        ({"class_id": 0, "generator": [torch.Generator()] * 2}, "list of 2 for 1 videos"),
        ({"class_id": 0, "eta": 0.5}, "FlowMatchEulerDiscreteScheduler has none"),
    ],
)
def test_bad_arguments_raise_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline()(**arguments)


def test_latents_must_fit():
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match="noise for 3 videos, 2 are asked for"):
        pipe([0, 1], latents=noise_latents(pipe, 3))


def test_models_must_fit():
    pipe = tiny_pipeline()
    wider = VidTwinDiT(structure_shape=(2, 3, 2, 3), dynamics_shape=(2, 4, 4), dynamics_axes=(2, 2), hidden_size=32,
                       num_layers=1, num_attention_heads=2)  # fmt: skip
    with pytest.raises(ValueError, match=r"\(2, 3, 2, 3\).*\(2, 3, 2, 2\)"):
        VidTwinDiffusionPipeline(vae=pipe.vae, transformer=wider, scheduler=pipe.scheduler)


def test_output_types():
    pipe = tiny_pipeline()
    outputs = {kind: pipe([0, 1], 2, generator=0, output_type=kind).frames for kind in ("np", "pt", "pil", "latent")}
    assert outputs["np"].shape == (2, 4, 16, 16, 3) and 0 <= outputs["np"].min() < outputs["np"].max() <= 1
    assert np.array_equal(outputs["pt"].permute(0, 1, 3, 4, 2).numpy(), outputs["np"])
    assert len(outputs["pil"]) == 2 and len(outputs["pil"][0]) == 4
    assert np.abs(np.asarray(outputs["pil"][1][2]) / 255 - outputs["np"][1, 2]).max() <= 0.5 / 255 + 1e-6
    video = pipe.vae.decode(outputs["latent"]).sample
    assert np.allclose((video / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1).detach().numpy(), outputs["np"], atol=1e-6)
    frames, cost = pipe(0, 1, return_dict=False)
    assert frames.shape == (1, 4, 16, 16, 3) and cost.decoding.flops > 0


def test_decoding_in_chunks_changes_nothing():
    pipe = tiny_pipeline()
    whole = pipe([0, 1, 2], 1, generator=0)
    chunked = pipe([0, 1, 2], 1, generator=0, decode_chunk_size=2)
    assert np.abs(whole.frames - chunked.frames).max() < 1e-5
    assert whole.cost.decoding.flops == chunked.cost.decoding.flops


def test_callback_sees_every_call_and_may_replace_the_tokens():
    pipe = tiny_pipeline("sample")
    pipe.scheduler = convert_scheduler("HeunDiscreteScheduler", pipe.scheduler.config, "sample")
    calls = []

    def callback(given, index, timestep, kwargs):
        assert given is pipe and kwargs["latents"].shape == (1, *pipe.transformer.layout.mask.shape)
        calls.append((index, float(timestep)))
        return {"latents": torch.zeros_like(kwargs["latents"])}

    out = pipe(0, 3, callback_on_step_end=callback, output_type="latent").frames
    assert [index for index, _ in calls] == list(range(5)) and calls[0][1] == 999
    assert torch.equal(out.structure[0, :, 0, 0, 0], torch.tensor([0.1, -0.2]))


def test_flow_spends_no_step_on_the_last_thousandth():
    times = []
    tiny_pipeline()(0, 4, callback_on_step_end=lambda _, index, time, kwargs: times.append(float(time)))
    assert times == [1000, 750, 500, 250]


def test_a_compiled_transformer_is_counted_alike():
    pipe = tiny_pipeline()
    plain = pipe(0, 2, generator=0)
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    compiled = pipe(0, 2, generator=0)
    assert compiled.cost.sampling.flops == plain.cost.sampling.flops
    assert np.abs(compiled.frames - plain.frames).max() < 1e-5


def test_train_mode_does_not_matter():
    pipe = tiny_pipeline()
    pipe.vae.train(), pipe.transformer.train()
    trained = pipe(0, 2, generator=0).frames
    pipe.vae.eval(), pipe.transformer.eval()
    assert np.array_equal(pipe(0, 2, generator=0).frames, trained)


def test_bfloat16_models_keep_the_state_in_float32():
    pipe = tiny_pipeline()
    expected = pipe(0, 4, generator=0).frames
    pipe.to(dtype=torch.bfloat16)
    dtypes = []
    out = pipe(0, 4, generator=0, callback_on_step_end=lambda _, i, t, kwargs: dtypes.append(kwargs["latents"].dtype))
    assert dtypes == [torch.float32] * 4 and out.frames.dtype == np.float32
    assert 0 < np.abs(out.frames - expected).max() < 0.05


def test_nan_is_an_error_not_a_black_frame():
    pipe = tiny_pipeline()
    torch.nn.init.constant_(pipe.transformer.final_layer.structure.bias, torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        pipe(0, 1)


@pytest.mark.parametrize("name, calls", [("DDIMScheduler", 4), ("HeunDiscreteScheduler", 7)])
def test_cost_counts_every_call(name, calls, caplog):
    pipe = tiny_pipeline("sample")
    pipe.scheduler = convert_scheduler(name, pipe.scheduler.config, "sample")
    with caplog.at_level(logging.INFO, "pipelines.pipeline_vidtwin"):
        out = pipe([0, 1], 4, guidance_scale=2.0)
    per_call = count_flops(
        pipe.transformer, torch.zeros(4, *pipe.transformer.layout.mask.shape), torch.zeros(4), torch.zeros(4).long()
    )
    assert out.cost.sampling.flops == calls * per_call
    assert out.cost.decoding.flops == count_flops(pipe.vae.decode, noise_latents(pipe, 2))
    assert out.cost.sampling.seconds > 0 and out.cost.sampling.peak_memory_bytes is None
    (record,) = caplog.records
    assert str(out.cost) in record.getMessage() and "not measured" in record.getMessage()
    assert pipe([0, 1], 4, guidance_scale=1.0).cost.sampling.flops == calls * per_call // 2
    assert pipe(0, 1, output_type="latent").cost.decoding is None


def test_cost_is_counted_once_per_shape(monkeypatch):
    pipe = tiny_pipeline()
    built = []
    twin = cost._meta_twin
    monkeypatch.setattr(cost, "_meta_twin", lambda model: built.append(type(model)) or twin(model))
    for _ in range(2):
        pipe([0, 1], 3)
    assert built == [VidTwinDiT, AutoencoderVidTwin]


RELOAD = """
import sys
import numpy as np
from pipelines import VidTwinDiffusionPipeline

pipe = VidTwinDiffusionPipeline.from_pretrained(sys.argv[1])
np.save(sys.argv[2], pipe(["circle right", 2], 3, generator=7).frames)
"""


@pytest.mark.parametrize("kind", ["flow", "flow_sample"])
def test_reloads_in_a_new_process_bit_for_bit(tmp_path, kind):
    pipe = tiny_pipeline(kind)
    pipe.save_pretrained(tmp_path / "pipeline")
    command = [sys.executable, "-c", RELOAD, str(tmp_path / "pipeline"), str(tmp_path / "frames.npy")]
    subprocess.run(command, cwd=ROOT, check=True)
    assert np.array_equal(np.load(tmp_path / "frames.npy"), pipe(["circle right", 2], 3, generator=7).frames)
