"""What must hold on a GPU. The same tests run on the CPU, so that they are known to run at all."""

import importlib.util
import os
from collections.abc import Callable

import pytest
import torch
from random_i3d import random_state_dict
from tiny_models import max_difference, noise_latents, tiny_pipeline
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from autoencoder import AutoencoderVidTwin
from autoencoder.common.device import to_device
from autoencoder.common.precision import set_tf32
from autoencoder.metrics import I3D, FrechetVideoDistance
from benchmarks.work.gpu import Bench, GpuConfig
from pipelines.stages import read_presets

ON_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
DEVICES = ["cpu", pytest.param("cuda", marks=ON_CUDA)]
on_every_device = pytest.mark.parametrize("device", DEVICES)


def on_cuda(test):
    """Mark a test that only a GPU can run."""
    for mark in ON_CUDA:
        test = mark(test)
    return test


@pytest.fixture(autouse=True)
def exact_products():
    """No TF32, so that float32 on a GPU is comparable with that of the CPU."""
    former = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_tf32(False)
    yield
    torch.set_float32_matmul_precision(former[0])
    torch.backends.cudnn.allow_tf32 = former[1]


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
def test_compiled_blocks_train_in_bf16_as_eager_ones(device):
    model = tiny_pipeline().vae.eval().to(device)
    found = []
    for _ in ("eager", "compiled"):
        with torch.autocast(device, torch.bfloat16):
            loss = stage_one_loss(model, device)
        found.append(gradients(model, loss))
        model.compile_repeated_blocks(backend="inductor" if device == "cuda" else "eager")
    torch.compiler.reset()
    assert F.cosine_similarity(*found, dim=0) > 0.99


BACKENDS = [("cpu", "_native_math")]
# cuDNN's kernel takes no models this small: on an H100 it refused them.
BACKENDS += [pytest.param("cuda", f"_native_{name}", marks=ON_CUDA) for name in ("math", "flash", "efficient")]


def small_models() -> list[tuple[torch.nn.Module, Callable]]:
    """Of both stages, with heads of 8 numbers and more, which every kernel takes, and their losses."""
    settings = read_presets("autoencoder", "control")[1] | {"num_layers": 1, "sample_size": 16, "num_frames": 4}
    torch.manual_seed(0)
    return [(AutoencoderVidTwin(**settings).eval(), stage_one_loss), (tiny_pipeline().transformer, stage_two_loss)]


@pytest.mark.parametrize("device, backend", BACKENDS)
def test_attention_backends_of_torch_agree(device, backend):
    for model, loss_of in small_models():
        found = []
        for name in ("native", backend):
            model.to(device).set_attention_backend(name)
            with torch.autocast(device, torch.bfloat16):
                found.append(gradients(model, loss_of(model, device)))
        assert F.cosine_similarity(*found, dim=0) > 0.98


@on_cuda
def test_attention_in_bf16_never_falls_back_to_the_plain_kernel():
    for model, loss_of in small_models():
        model.to("cuda")
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
            with torch.autocast("cuda", torch.bfloat16):
                loss = loss_of(model, "cuda")  # raises where none of them takes what the model gives
            assert gradients(model, loss).isfinite().all()


# On the CPU itself, accelerate cannot offload layer by layer.
OFFLOADING = [("cpu", "model"), *(pytest.param("cuda", kind, marks=ON_CUDA) for kind in ("model", "sequential"))]


@pytest.mark.parametrize("device, kind", OFFLOADING)
def test_offloading_changes_no_bit(device, kind):
    settings = {"num_inference_steps": 2, "guidance_scale": 2.0, "generator": 0, "output_type": "latent"}
    pipe = tiny_pipeline(independent_times=True)
    expected = pipe.to(device)([0, 1], **settings).frames
    with torch.no_grad():
        decoded = pipe.vae.decode(expected).sample.cpu()
    pipe.to("cpu")
    getattr(pipe, f"enable_{kind}_cpu_offload")(device=device)
    for _ in range(2):
        out = pipe([0, 1], **settings)
        assert max_difference(out.frames.to("cpu"), expected.to("cpu")) == 0
    video = pipe([0, 1], **settings | {"output_type": "pt"}).frames
    torch.testing.assert_close(video.cpu(), (decoded.movedim(1, 2) / 2 + 0.5).clamp(0, 1), rtol=0, atol=0)
    assert (out.cost.sampling.peak_memory_bytes is None) == (device == "cpu")
    if device == "cuda":
        assert not any(parameter.is_cuda for parameter in (*pipe.vae.parameters(), *pipe.transformer.parameters()))
    given = pipe([0, 1], **settings, structure=torch.zeros(2, *pipe.vae.video_shape)).frames
    assert torch.equal(given.structure[0], given.structure[1]), "structure is that of the given video"


@on_cuda
def test_distances_of_videos_equal_those_of_the_cpu(tmp_path):
    path, draw = tmp_path / "i3d.pt", torch.Generator().manual_seed(0)
    torch.save(random_state_dict(), path)
    videos = torch.randint(0, 256, (2, 2, 3, 9, 32, 32), generator=draw, dtype=torch.uint8)
    distances, features = [], []
    for device in ("cpu", "cuda"):
        metric = FrechetVideoDistance(I3D.from_file(path, allow_unknown=True)).to(device)
        features.append([metric.extract(video.to(device)) for video in videos])
        for found, real in zip(features[-1], (True, False), strict=True):
            metric.update_features(found, real=real)
        distances.append(metric.compute().item())
    expected, found = (torch.cat(both).cpu() for both in features)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert distances[1] == pytest.approx(distances[0], rel=1e-3) and distances[0] > 0


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
