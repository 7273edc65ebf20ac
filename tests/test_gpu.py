"""What must hold on a GPU. The same tests run on the CPU, so that they are known to run at all."""

import importlib.util
import os

import pytest
import torch
from tiny_models import noise_latents, tiny_pipeline
from torch.nn import functional as F

from autoencoder.common.device import to_device
from benchmarks.work.gpu import Bench, GpuConfig

ON_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
DEVICES = ["cpu", pytest.param("cuda", marks=ON_CUDA)]
on_every_device = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture(autouse=True)
def exact_products():
    """No TF32, so that float32 on a GPU is comparable with that of the CPU."""
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    former = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "ieee"
    yield
    for setting, precision in zip(settings, former, strict=True):
        setting.fp32_precision = precision


def gradients(model: torch.nn.Module, loss) -> torch.Tensor:
    """All gradients of a model after a backward pass of a scalar, float32 on the CPU."""
    model.zero_grad()
    loss.backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([gradient.float().flatten().cpu() for gradient in found])


def stage_one_loss(vae, device: str) -> torch.Tensor:
    video = torch.sin(torch.arange(2 * 3 * 4 * 16 * 16).float()).view(2, *vae.video_shape).to(device)
    reconstruction, posterior = vae(video)
    return (reconstruction.float() - video).abs().mean() + 1e-3 * posterior.kl().mean()


def stage_two_loss(dit, device: str) -> torch.Tensor:
    tokens = torch.sin(torch.arange(2 * dit.layout.num_tokens * dit.layout.token_dim).float())
    tokens = tokens.view(2, dit.layout.num_tokens, dit.layout.token_dim).to(device)
    labels = torch.tensor([0, 2], device=device)
    return F.mse_loss(dit(tokens, torch.tensor([100.0, 900.0], device=device), labels).sample.float(), tokens.flip(0))


def test_tests_without_the_mark_see_no_gpu():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and not torch.cuda.is_available()


@on_every_device
@pytest.mark.parametrize("stage, loss_of", [("vae", stage_one_loss), ("transformer", stage_two_loss)])
def test_a_step_in_bf16_equals_that_of_the_cpu_in_float32(device, stage, loss_of):
    model = getattr(tiny_pipeline(), stage).eval()
    expected_loss = loss_of(model, "cpu")
    expected = gradients(model, expected_loss)
    model.to(device)
    with torch.autocast(device, torch.bfloat16):
        loss = loss_of(model, device)
    found = gradients(model, loss)
    assert abs(loss.item() - expected_loss.item()) < 0.02 * abs(expected_loss.item())
    assert F.cosine_similarity(found, expected, dim=0) > 0.99


@on_every_device
def test_a_step_in_float32_equals_that_of_the_cpu(device):
    pipe = tiny_pipeline()
    for model, loss_of in ((pipe.vae.eval(), stage_one_loss), (pipe.transformer, stage_two_loss)):
        expected = gradients(model, loss_of(model, "cpu"))
        found = gradients(model.to(device), loss_of(model, device))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@on_every_device
def test_the_same_seed_gives_the_same_video_as_on_the_cpu(device):
    pipe = tiny_pipeline()
    settings = {"num_inference_steps": 4, "guidance_scale": 2.0, "generator": 0, "output_type": "pt"}
    expected = pipe([0, 1], **settings).frames
    found = pipe.to(device)([0, 1], **settings).frames
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=2e-3)


@on_every_device
def test_latents_and_videos_equal_those_of_the_cpu(device):
    pipe = tiny_pipeline()
    vae, latents = pipe.vae.eval(), noise_latents(pipe, 2)
    with torch.no_grad():
        video = vae.decode(latents).sample
        encoded = vae.encode(video).latent_dist.mode()
        vae.to(device)
        torch.testing.assert_close(vae.decode(latents.to(device)).sample.cpu(), video, rtol=1e-3, atol=1e-4)
        found = vae.encode(video.to(device)).latent_dist.mode().to("cpu")
    torch.testing.assert_close(
        (found.structure, found.dynamics), (encoded.structure, encoded.dynamics), rtol=1e-3, atol=1e-4
    )


@on_every_device
def test_copies_arrive_whole(device):
    clips = torch.arange(64 * 1000, dtype=torch.int32).view(64, 1000)
    copies = [to_device(clip, torch.device(device)) for clip in clips]  # the host does not wait for any of them
    assert torch.equal(torch.stack(copies).cpu(), clips)


@on_every_device
def test_compiled_blocks_equal_eager_ones(device):
    pipe = tiny_pipeline()
    model = pipe.transformer.to(device)
    with torch.no_grad():
        expected = stage_two_loss(model, device)
        model.compile_repeated_blocks(backend="inductor" if device == "cuda" else "eager")
        torch.testing.assert_close(stage_two_loss(model, device), expected, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


@on_every_device
def test_peak_memory_is_near_what_is_counted(device):
    """On the CPU it is not measured."""
    bench = Bench(GpuConfig(device=device, quick=True, tests=False), torch.device(device))
    bench.autoencoder = "tiny" if device == "cpu" else "base"
    row = bench.autoencoder_step("eager")
    if device == "cpu":
        assert row.peak_memory_bytes is None and row.counted_memory_bytes > 0
    else:
        assert 0.9 < row.peak_memory_bytes / row.counted_memory_bytes < 1.35


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("flash_attn") is None,
    reason="needs a CUDA GPU and flash-attn",
)
def test_flash_attention_equals_torchs_own():
    pipe = tiny_pipeline()
    for model, loss_of in ((pipe.vae.eval(), stage_one_loss), (pipe.transformer, stage_two_loss)):
        model.to("cuda")
        found = []
        for backend in ("native", "flash"):
            model.set_attention_backend(backend)
            with torch.autocast("cuda", torch.bfloat16):
                loss = loss_of(model, "cuda")
            found.append(gradients(model, loss))
        assert F.cosine_similarity(*found, dim=0) > 0.99
