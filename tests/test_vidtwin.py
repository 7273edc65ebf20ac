"""The autoencoder: equal to the reference, causal, and whole after saving."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from safetensors.torch import load_file, save_file
from tiny_models import tiny_vae

from autoencoder import AutoencoderVidTwin, VidTwinLatents, transformer

REFERENCE = Path(__file__).parent / "data" / "reference"
PARAMETERS = {"one_block": 277_800, "two_block": 224_977}  # of the reference, without those that no forward reads


def random_vae(**changes) -> AutoencoderVidTwin:
    """A tiny model with no weight at zero, where much of a fresh one is."""
    torch.manual_seed(0)
    vae = AutoencoderVidTwin(**{k: v for k, v in tiny_vae().config.items() if not k.startswith("_")} | changes)
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return vae.eval()


def clips(vae: AutoencoderVidTwin, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, *vae.video_shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module", params=PARAMETERS)
def reference(request) -> tuple[AutoencoderVidTwin, dict[str, torch.Tensor], str]:
    config = json.loads((REFERENCE / f"{request.param}.json").read_text())["config"]
    vae = AutoencoderVidTwin.from_original(REFERENCE / f"{request.param}.weights.safetensors", **config)
    return vae, load_file(REFERENCE / f"{request.param}.io.safetensors"), request.param


@torch.no_grad()
def test_every_tensor_equals_the_reference(reference):
    vae, expected, name = reference
    video = expected["video"]
    height = vae.config.sample_size // vae.config.patch_size
    width = vae.dynamics_axes[0]
    features = vae.encoder(video)
    posterior = vae.encode(video).latent_dist
    latents = posterior.mode()
    dynamics = vae.dynamics_encoder(features)
    actual = {
        "encoder_output": features.unflatten(2, (height, -1)).permute(0, 4, 1, 2, 3),
        "structure_moments": vae.structure_encoder(features).transpose(1, 2),
        "structure_mean": latents.structure.permute(0, 2, 3, 4, 1),
        "dynamics_x_moments": dynamics[..., :width],
        "dynamics_y_moments": dynamics[..., width:],
        "dynamics_x_mean": latents.dynamics[..., :width],
        "dynamics_y_mean": latents.dynamics[..., width:],
        "kl": posterior.kl().mean()[None],
        "reconstruction": vae.decode(latents).sample,
        "structure_only": vae.decode(latents, part="structure").sample,
        "dynamics_only": vae.decode(latents, part="dynamics").sample,
    }
    assert actual.keys() == expected.keys() - {"video"}
    for key, tensor in actual.items():
        assert tensor.shape == expected[key].shape, key
        assert (tensor - expected[key]).abs().max() <= 1e-4 * expected[key].abs().max(), key
    assert sum(parameter.numel() for parameter in vae.parameters()) == PARAMETERS[name]
    torch.testing.assert_close(vae(video)[0], actual["reconstruction"])


@torch.no_grad()
@pytest.mark.parametrize("frame", [0, 2, 3])
def test_encoder_is_causal_in_time(frame):
    vae = random_vae(num_layers=2)
    video = clips(vae, 1)
    changed = video.clone()
    changed[:, :, frame] = -changed[:, :, frame]
    difference = (vae.encoder(video) - vae.encoder(changed)).abs().amax(dim=(0, 2, 3))
    assert (difference[:frame] == 0).all()
    assert (difference[frame:] > 1e-3).all()


@torch.no_grad()
def test_a_clip_does_not_depend_on_its_batch():
    vae = random_vae()
    video = clips(vae, 3)
    latents, alone = vae.encode(video).latent_dist.mode(), vae.encode(video[1:2]).latent_dist.mode()
    torch.testing.assert_close(latents[1].structure, alone.structure)
    torch.testing.assert_close(latents[1].dynamics, alone.dynamics)
    torch.testing.assert_close(vae.decode(latents).sample[1:2], vae.decode(alone).sample)
    assert not torch.allclose(vae.decode(latents[0]).sample, vae.decode(alone).sample)


@torch.no_grad()
def test_the_parts_of_a_video():
    vae = random_vae()
    a, b = (vae.encode(video).latent_dist.mode() for video in clips(vae)[:, None])
    crossed = VidTwinLatents(a.structure, b.dynamics)
    assert torch.equal(vae.decode(crossed, part="structure").sample, vae.decode(a, part="structure").sample)
    assert torch.equal(vae.decode(crossed, part="dynamics").sample, vae.decode(b, part="dynamics").sample)
    both = vae.decoder(vae.structure_decoder(a.structure) + vae.dynamics_decoder(b.dynamics))
    torch.testing.assert_close(vae.decode(crossed).sample, both)
    assert not torch.allclose(vae.decode(crossed).sample, vae.decode(a).sample)
    with pytest.raises(ValueError, match="part='motion' is none of both, structure, dynamics"):
        vae.decode(a, part="motion")


@torch.no_grad()
def test_positions_along_x_come_first():
    """A position along x reaches one column of the grid, one along y a row."""
    vae = random_vae(dynamics_downsamples=0)
    latents = vae.encode(clips(vae, 1)).latent_dist.mode()
    along_x, along_y = latents.dynamics.clone(), latents.dynamics.clone()
    width = vae.dynamics_axes[0]
    along_x[..., 1] += 1.0
    along_y[..., width + 1] += 1.0
    side = vae.config.sample_size // vae.config.patch_size
    grid = vae.dynamics_decoder(latents.dynamics).unflatten(2, (side, side))
    for changed, place in ((along_x, (slice(None), 1)), (along_y, (1, slice(None)))):
        difference = (vae.dynamics_decoder(changed).unflatten(2, (side, side)) - grid).abs().amax(dim=(0, 1, 4))
        assert (difference[place] > 0).all()
        difference[place] = 0
        assert (difference == 0).all()


def test_wrong_sizes_name_both():
    vae = tiny_vae()
    for shape in ((1, 3, 5, 16, 16), (1, 3, 4, 16, 20), (1, 1, 4, 16, 16), (3, 4, 16, 16)):
        with pytest.raises(ValueError, match=rf"video has shape \({', '.join(map(str, shape))}\).*\(B, 3, 4, 16, 16\)"):
            vae.encode(torch.zeros(shape))
    structure, dynamics = torch.zeros(1, *vae.structure_shape), torch.zeros(1, *vae.dynamics_shape)
    with pytest.raises(ValueError, match=r"latents.structure has shape \(1, 2, 3, 2, 3\).*\(B, 2, 3, 2, 2\)"):
        vae.decode(VidTwinLatents(torch.zeros(1, 2, 3, 2, 3), dynamics))
    with pytest.raises(ValueError, match=r"latents.dynamics has shape \(1, 2, 4, 5\).*\(B, 2, 4, 4\)"):
        vae.decode(VidTwinLatents(structure, torch.zeros(1, 2, 4, 5)))


@torch.no_grad()
@pytest.mark.parametrize("grid, side", [(7, 2), (13, 4)])
def test_odd_grids(grid, side):
    vae = random_vae(sample_size=4 * grid, structure_downsamples=2, dynamics_downsamples=2)
    assert vae.structure_shape == (2, 3, side, side)
    assert vae.dynamics_shape == (2, 4, 2 * side) and vae.dynamics_axes == (side, side)
    latents = vae.encode(clips(vae, 1)).latent_dist.mode()
    assert latents.structure.shape == (1, *vae.structure_shape)
    assert latents.dynamics.shape == (1, *vae.dynamics_shape)
    for part in ("both", "structure", "dynamics"):
        assert vae.decode(latents, part=part).sample.shape == (1, *vae.video_shape)
    assert vae.compression_rate == (6 * side**2 + 16 * side) / (3 * 4 * 16 * grid**2)


@torch.no_grad()
def test_overlapping_patches_are_a_convolution():
    vae = random_vae(patch_overlap=2)
    video = clips(vae)
    encoder, (batch, _, num_frames) = vae.encoder, video.shape[:3]
    frames = torch.nn.functional.pad(video.transpose(1, 2).flatten(0, 1), (2, 2, 2, 2), mode="replicate")
    kernel = encoder.patch_embedding.weight.view(-1, 3, 8, 8)
    tokens = torch.conv2d(frames, kernel, encoder.patch_embedding.bias, stride=4).flatten(2).mT
    torch.testing.assert_close(encoder(video), encoder.transformer(tokens.unflatten(0, (batch, num_frames))))
    assert vae.decode(vae.encode(video).latent_dist.mode()).sample.shape == video.shape


def gradients(vae: AutoencoderVidTwin) -> dict[str, torch.Tensor | None]:
    torch.manual_seed(2)  # of the dropout
    noise = torch.Generator().manual_seed(3)
    reconstruction, posterior = vae.train()(clips(vae), sample_posterior=True, generator=noise)
    (reconstruction.square().mean() + posterior.kl().mean()).backward()
    return {name: parameter.grad for name, parameter in vae.named_parameters()}


def test_every_parameter_is_used():
    for name, gradient in gradients(random_vae()).items():
        assert gradient is not None, name
        if not name.endswith("to_k.bias"):  # softmax does not see it
            assert gradient.abs().max() > 1e-9, name


def test_gradient_checkpointing_changes_no_gradient():
    vae = random_vae()
    calls = []
    for module in (vae.encoder.transformer.blocks[0], vae.decoder.transformer.blocks[0]):
        module.register_forward_pre_hook(lambda *args: calls.append("block"))
    vae.structure_encoder.qformer.layers[0].register_forward_pre_hook(lambda *args: calls.append("layer"))
    expected = gradients(vae)
    assert sorted(calls) == ["block", "block", "layer"]
    vae.zero_grad()
    vae.enable_gradient_checkpointing()
    actual = gradients(vae)
    assert sorted(calls) == ["block"] * 6 + ["layer"] * 3, "each was computed again"
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, msg=name)


def test_bf16_autocast_stays_close():
    vae = random_vae()
    video = clips(vae)
    with torch.no_grad():
        expected, _ = vae(video)
    with torch.autocast("cpu", torch.bfloat16):
        actual, posterior = vae(video)
        loss = actual.float().square().mean() + posterior.kl().mean()
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).norm() < 0.05 * expected.norm()
    loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in vae.parameters())


@torch.no_grad()
def test_autocast_rounds_products_and_not_the_residual_stream():
    """Many blocks add up in fp32: a stream in bf16 would be off by 1.2 % here, this one is by 0.2 %."""
    torch.manual_seed(0)
    backbone = transformer.SpatialTemporalTransformer(4, 4, 64, num_layers=16, num_heads=4)
    transformer.initialize_backbone(backbone)
    for block in backbone.blocks:
        torch.nn.init.xavier_uniform_(block.temporal_attention.proj.weight)
    x = torch.randn(2, 4, 16, 64)
    expected = backbone(x)
    with torch.autocast("cpu", torch.bfloat16):
        actual = backbone(x.bfloat16())
    assert actual.dtype == torch.float32
    assert (actual - expected).norm() < 0.005 * expected.norm()


@torch.no_grad()
def test_runs_in_bf16_as_a_whole():
    vae = random_vae()
    expected, _ = vae(clips(vae))
    actual, _ = vae.to(torch.bfloat16)(clips(vae).bfloat16())
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).norm() < 0.1 * expected.norm()


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_flash_attention_is_not_replaced_silently():
    vae = tiny_vae()
    try:
        with pytest.raises((RuntimeError, ImportError), match="flash"):
            vae.set_attention_backend("flash")
    finally:
        vae.set_attention_backend("native")  # the setting is global to diffusers
    assert vae(clips(vae))[0].isfinite().all()


def test_attention_goes_through_the_dispatcher(monkeypatch):
    seen = []
    dispatch = transformer.dispatch_attention_fn

    def note(*args, **kwargs):
        seen.append((kwargs["backend"], kwargs["is_causal"]))
        return dispatch(*args, **kwargs)

    monkeypatch.setattr(transformer, "dispatch_attention_fn", note)
    vae = tiny_vae()
    vae.set_attention_backend("_native_math")
    try:
        vae(clips(vae))
    finally:
        vae.set_attention_backend("native")
    assert len(seen) == 2 + 2 + 3, "two per block of encoder and decoder; self, cross and self in the Q-Former"
    assert {backend for backend, _ in seen} == {"_native_math"}
    assert sum(is_causal for _, is_causal in seen) == 2


@torch.no_grad()
def test_saves_and_loads_in_a_new_process(tmp_path):
    vae = random_vae()
    vae.save_pretrained(tmp_path / "model")
    script = (
        "import sys, torch; from safetensors.torch import load_file, save_file\n"
        "from autoencoder import AutoencoderVidTwin\n"
        "vae = AutoencoderVidTwin.from_pretrained(sys.argv[1]); assert not vae.training\n"
        "with torch.no_grad(): video, posterior = vae(load_file(sys.argv[2])['video'])\n"
        "save_file({'video': video, 'structure': posterior.mode().structure.contiguous()}, sys.argv[3])"
    )
    save_file({"video": clips(vae)}, tmp_path / "in.safetensors")
    names = [str(tmp_path / name) for name in ("model", "in.safetensors", "out.safetensors")]
    subprocess.run([sys.executable, "-c", script, *names], check=True, cwd=Path(__file__).parents[1])
    loaded = load_file(tmp_path / "out.safetensors")
    video, posterior = vae(clips(vae))
    assert torch.equal(loaded["video"], video) and torch.equal(loaded["structure"], posterior.mode().structure)


def test_offloading_moves_the_model_for_encode_and_decode():
    class Count(ModelHook):
        calls = 0

        def pre_forward(self, module, *args, **kwargs):
            self.calls += 1
            return args, kwargs

    vae, hook = tiny_vae(), Count()
    add_hook_to_module(vae, hook)
    latents = vae.encode(clips(vae)).latent_dist.mode()
    vae.decode(latents)
    assert hook.calls == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_layers": 0}, "num_layers must be positive, got 0"),
        ({"structure_downsamples": -1}, "structure_downsamples must be at least 0, got -1"),
        ({"patch_overlap": -1}, "patch_overlap must be at least 0, got -1"),
        ({"qformer_dropout": 1.0}, "qformer_dropout must be below 1, got 1.0"),
        ({"sample_size": 18}, "sample_size=18 is not a multiple of patch_size=4"),
        ({"num_attention_heads": 3}, "num_attention_heads=3 does not divide the width 16"),
        ({"qformer_num_attention_heads": 3}, "qformer_num_attention_heads=3 does not divide qformer_hidden_size=8"),
        ({"hidden_size": 18}, "divisible by 4, got 18"),
    ],
)
def test_wrong_configs_name_the_value(changes, message):
    with pytest.raises(ValueError, match=message):
        random_vae(**changes)


@torch.no_grad()
def test_forward_returns_as_autoencoders_of_diffusers_do():
    vae = random_vae().eval()
    video = clips(vae)
    out = vae(video)
    posterior = vae.encode(video).latent_dist
    assert torch.equal(out.sample, vae.decode(posterior.mode()).sample)
    assert torch.equal(out.latent_dist.kl(), posterior.kl())
    plain = vae(video, return_dict=False)
    assert type(plain) is tuple and torch.equal(plain[0], out.sample)
    drawn = [
        vae(video, sample_posterior=True, generator=torch.Generator().manual_seed(seed)).sample for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], out.sample)


@torch.no_grad()
def test_slicing_takes_the_clips_one_by_one():
    vae = random_vae().eval()
    video = torch.randn(3, *vae.video_shape, generator=torch.Generator().manual_seed(0))
    sizes = []
    for part in (vae.encoder, vae.decoder):
        part.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    whole = vae(video)
    vae.enable_slicing()
    sliced = vae(video)
    vae.disable_slicing()
    vae(video)
    assert sizes == [3, 3] + [1] * 6 + [3, 3]
    torch.testing.assert_close(sliced.sample, whole.sample, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sliced.latent_dist.kl(), whole.latent_dist.kl())
    mean, expected = sliced.latent_dist.mode(), whole.latent_dist.mode()
    torch.testing.assert_close(
        (mean.structure, mean.dynamics), (expected.structure, expected.dynamics), atol=1e-5, rtol=0
    )


def test_tiling_is_refused_with_a_reason():
    with pytest.raises(NotImplementedError, match="no tiling: its latents describe a whole frame"):
        tiny_vae().enable_tiling()
