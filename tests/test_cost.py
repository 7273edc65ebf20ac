"""FLOPs against closed forms written here, and that counting leaves no trace."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from autoencoder import AutoencoderVidTwin, VidTwinLatents
from autoencoder.common.cost import Cost, PeakMemory, count_flops, format_bytes, format_flops, measure
from generator import VidTwinDiT

SMALL_VAE = {
    "num_frames": 4,
    "sample_size": 16,
    "patch_size": 4,
    "hidden_size": 16,
    "num_layers": 1,
    "num_attention_heads": 2,
    "structure_queries": 3,
    "structure_channels": 2,
    "structure_downsamples": 1,
    "structure_conv_channels": 8,
    "dynamics_channels": 2,
    "dynamics_downsamples": 1,
    "qformer_hidden_size": 8,
    "qformer_num_layers": 2,
    "qformer_num_attention_heads": 2,
    "qformer_intermediate_size": 16,
}
OTHER_VAE = SMALL_VAE | {
    "num_frames": 6,
    "sample_size": 20,
    "hidden_size": 24,
    "num_layers": 3,
    "structure_queries": 5,
    "structure_downsamples": 2,
}
SMALL_DIT = {
    "structure_shape": (2, 3, 2, 2),
    "dynamics_shape": (2, 4, 4),
    "dynamics_axes": (2, 2),
    "hidden_size": 32,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_classes": 5,
}
OTHER_DIT = SMALL_DIT | {
    "structure_shape": (4, 5, 3, 3),
    "dynamics_shape": (3, 6, 6),
    "dynamics_axes": (3, 3),
    "structure_patch_size": (2, 1, 2),
    "dynamics_patch_size": (4, 2),
    "hidden_size": 48,
    "num_layers": 3,
    "mlp_ratio": 2.0,
}


def latents_of(vae: AutoencoderVidTwin, batch: int) -> VidTwinLatents:
    return VidTwinLatents(torch.randn(batch, *vae.structure_shape), torch.randn(batch, *vae.dynamics_shape))


def linear(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def conv3x3(places: int, inputs: int, outputs: int) -> int:
    return 2 * 9 * places * inputs * outputs


def attention(sequences: int, length: int, width: int) -> int:
    """Both products, causal or not."""
    return 2 * 2 * sequences * length**2 * width


def decoder_flops(config: dict, batch: int) -> int:
    """A VAE's `decode`, from the layers of the paper's backbone and branches (arXiv 2412.17726)."""
    frames, width, queries = config["num_frames"], config["hidden_size"], config["structure_queries"]
    grid = config["sample_size"] // config["patch_size"]
    tokens = batch * frames * grid**2

    block = 2 * (linear(tokens, width, 3 * width) + linear(tokens, width, width)) + 2 * linear(tokens, width, 4 * width)
    block += attention(batch * frames, grid**2, width) + attention(batch * grid**2, frames, width)
    total = config["num_layers"] * block + linear(tokens, width, 3 * config["patch_size"] ** 2)

    k = config["structure_downsamples"]
    side = -(-grid // 2**k)
    channels = config["structure_conv_channels"] * 2**k
    images = batch * queries
    total += conv3x3(images * side**2, config["structure_channels"], channels)
    for _ in range(k):
        total += conv3x3(images * side**2, channels, channels // 2)
        side, channels = 2 * side, channels // 2
    total += conv3x3(images * side**2, channels, config["qformer_hidden_size"])
    total += linear(images * grid**2, config["qformer_hidden_size"], width)
    total += linear(batch * grid**2 * width, queries, frames)

    position = -(-grid // 2 ** config["dynamics_downsamples"])
    total += linear(batch * frames * 2 * position, config["dynamics_channels"], width)
    total += linear(batch * frames * 2 * position, width, width)
    total += linear(batch * frames * 2 * width, position, grid) + linear(batch * frames * 2 * width, grid, grid)
    return total


@pytest.mark.parametrize("config", [SMALL_VAE, OTHER_VAE], ids=["small", "other"])
def test_vae_decoder_matches_closed_form(config):
    vae = AutoencoderVidTwin(**config)
    for batch in (1, 3):
        assert count_flops(vae.decode, latents_of(vae, batch)) == decoder_flops(config, batch)


def test_forward_of_the_papers_size():
    """1.984 TFLOP, counted on the published reference."""
    with torch.device("meta"):
        vae = AutoencoderVidTwin()
        video = torch.rand(1, *vae.video_shape)
    assert format_flops(count_flops(vae, video)) == "1.984 TFLOP"


def dit_flops(config: dict, batch: int, cross_attention: bool) -> int:
    """A DiT's forward with times of shape (B,), from the layers of the paper's model."""
    width = config["hidden_size"]
    d_s, *structure = config["structure_shape"]
    d_d, frames, _ = config["dynamics_shape"]
    structure_patch, dynamics_patch = (
        config.get("structure_patch_size", (1, 1, 1)),
        config.get("dynamics_patch_size", (1, 1)),
    )
    num_structure = 1
    for side, patch in zip(structure, structure_patch, strict=True):
        num_structure *= -(-side // patch)
    frame_patches = -(-frames // dynamics_patch[0])
    num_planes = sum(frame_patches * -(-side // dynamics_patch[1]) for side in config["dynamics_axes"])
    structure_dim = d_s * structure_patch[0] * structure_patch[1] * structure_patch[2]
    dynamics_dim = d_d * dynamics_patch[0] * dynamics_patch[1]
    length = num_structure + num_planes

    projections = linear(batch * num_structure, structure_dim, width) + linear(batch * num_planes, dynamics_dim, width)
    hidden = int(config.get("mlp_ratio", 4.0) * width)
    block = linear(batch * length, width, 3 * width) + linear(batch * length, width, width)
    block += attention(batch, length, width) + 2 * linear(batch * length, width, hidden)
    block += linear(batch, width, 6 * width)
    total = 2 * projections + linear(batch, 256, width) + linear(batch, width, width) + linear(batch, width, 2 * width)
    if cross_attention:
        block += linear(batch, 256, width) + linear(batch, width, width)
    return total + config["num_layers"] * block


@pytest.mark.parametrize("conditioning", ["adaln_zero", "cross_attention"])
@pytest.mark.parametrize("config", [SMALL_DIT, OTHER_DIT], ids=["small", "other"])
def test_dit_matches_closed_form(config, conditioning):
    dit = VidTwinDiT(**config, conditioning=conditioning)
    for batch in (1, 3):
        inputs = torch.randn(batch, *dit.layout.mask.shape), torch.full((batch,), 500.0), torch.zeros(batch).long()
        assert count_flops(dit, *inputs) == dit_flops(config, batch, conditioning == "cross_attention")


def counted_while_running(call, *args) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(*args)
    return counter.get_total_flops()


def test_meta_equals_what_really_runs():
    vae = AutoencoderVidTwin(**SMALL_VAE)
    video = torch.rand(2, *vae.video_shape)
    counted = count_flops(vae.encode, video)
    with sdpa_kernel(SDPBackend.MATH):
        assert counted_while_running(vae.encode, video) == counted
    if torch.ops.aten._scaled_dot_product_flash_attention_for_cpu in flop_registry:
        assert counted_while_running(vae.encode, video) == counted
    else:
        print("this torch has no FLOP formula for its CPU attention: the fused kernel is not compared")


def test_dtype_does_not_matter():
    vae = AutoencoderVidTwin(**SMALL_VAE)
    latents = latents_of(vae, 2)
    expected = count_flops(vae.decode, latents)
    assert count_flops(vae.bfloat16().decode, latents.to(torch.bfloat16)) == expected


def test_each_part_has_its_own_count():
    vae = AutoencoderVidTwin(**SMALL_VAE)
    latents = latents_of(vae, 1)
    both, structure, dynamics = (
        count_flops(vae.decode, latents, part=part) for part in ("both", "structure", "dynamics")
    )
    backbone = structure + dynamics - both
    assert 0 < backbone < min(structure, dynamics)
    assert count_flops(vae.decode, latents) == both


def test_the_model_is_left_untouched():
    vae = AutoencoderVidTwin(**SMALL_VAE).train()
    vae.enable_gradient_checkpointing()
    # What `set_attention_backend("flash")` does where flash-attn is installed.
    processors = [module.processor for module in vae.modules() if hasattr(module, "processor")]
    for processor in processors:
        processor._attention_backend = "flash"
    calls = []
    vae.decoder.register_forward_hook(lambda *_: calls.append("hook"))
    before = {name: (value.data_ptr(), value.clone()) for name, value in vae.state_dict().items()}
    video = torch.rand(1, *vae.video_shape)
    plain = count_flops(AutoencoderVidTwin(**SMALL_VAE), video)
    random_state = torch.get_rng_state()

    assert count_flops(vae, video) == plain

    assert torch.equal(torch.get_rng_state(), random_state)
    assert calls == []
    assert vae.training and vae.decoder.transformer.gradient_checkpointing
    assert {processor._attention_backend for processor in processors} == {"flash"}
    for name, value in vae.state_dict().items():
        pointer, content = before[name]
        assert value.data_ptr() == pointer and torch.equal(value, content)
    vae.set_attention_backend("native")
    vae(video)[0].mean().backward()
    assert calls == ["hook"]


class Counting(nn.Linear):
    """A linear layer that counts how often any copy of it is called."""

    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return super().forward(x)


def test_counted_once_per_shape():
    layer = Counting(4, 8)
    assert [count_flops(layer, torch.rand(rows, 4)) for rows in (2, 2, 3, 2)] == [128, 128, 192, 128]
    assert Counting.calls == 2


def test_offloading_does_not_reach_the_copy():
    """accelerate replaces `forward` and keeps hooks that point at whole other models."""

    class Weights:
        def __deepcopy__(self, memo):
            raise AssertionError("the hook was copied")

    layer = nn.Linear(4, 8)
    layer._hf_hook, layer._old_forward, layer.forward = Weights(), layer.forward, lambda x: 1 / 0
    assert count_flops(nn.Sequential(layer), torch.rand(2, 4)) == 128
    assert isinstance(layer._hf_hook, Weights) and "forward" in vars(layer)


def test_count_needs_a_model():
    with pytest.raises(TypeError, match="module or a method of one"):
        count_flops(torch.relu, torch.rand(2))


def test_measure_on_cpu_says_that_memory_was_not_measured():
    with measure("cpu") as cost:
        torch.rand(10)
    assert cost.seconds > 0 and cost.peak_memory_bytes is None
    assert str(cost).endswith("peak memory not measured")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="peak memory is measured on CUDA only")
def test_measure_on_cuda():
    with measure("cuda") as cost:
        torch.zeros(2**20, device="cuda")
    assert cost.peak_memory_bytes >= 4 * 2**20


def test_formats():
    assert format_flops(1.984e12) == "1.984 TFLOP" and format_flops(12) == "12 FLOP"
    assert format_bytes(3 * 2**30) == "3.00 GiB" and format_bytes(5) == "5 B"
    assert str(Cost(2_500_000_000, 2**20, 1.5)) == "2.500 GFLOP, 1.50 s, peak memory 1.00 MiB"


def test_the_peak_of_a_training_leaves_out_what_is_done_apart(monkeypatch):
    """Though that may reset the record of the allocator, and hold more."""
    allocator = {"now": 0, "peak": 0}

    def hold(size: int) -> None:
        allocator.update(now=size, peak=max(size, allocator["peak"]))

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: allocator["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: allocator.update(peak=allocator["now"]))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    peak = PeakMemory("cuda")
    hold(50)
    hold(10)
    with peak.apart(), measure("cuda"):
        hold(90)
        hold(10)
    assert peak.bytes == 50
    hold(60)
    with pytest.raises(KeyError), peak.apart():
        hold(10)
        torch.cuda.reset_peak_memory_stats("cuda")
        raise KeyError
    assert peak.bytes == 60
    assert PeakMemory("cpu").bytes is None
