"""VidTwinDiT at tiny size: zero initialisation, padding, times, choices, statistics, saving."""

import copy
import subprocess
import sys

import pytest
import torch

from autoencoder import VidTwinLatents
from autoencoder.transformer import AttentionProcessor
from generator import VidTwinDiT
from generator.blocks import DiTBlock
from generator.dit import rotary_positions

TINY = {
    "structure_shape": (4, 5, 3, 3),
    "dynamics_shape": (6, 5, 7),
    "dynamics_axes": (3, 4),
    "structure_patch_size": (2, 2, 2),
    "dynamics_patch_size": (2, 2),
    "hidden_size": 32,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_classes": 3,
}
LABELS = torch.tensor([0, 3])
VARIANTS = [
    {},
    {"conditioning": "cross_attention", "class_embedding_size": 8},
    {"norm": "rms_norm"},
    {"feed_forward": "swiglu"},
    {"qk_norm": "rms_norm"},
    {"positions": "rotary"},
    {"norm": "rms_norm", "feed_forward": "swiglu", "qk_norm": "rms_norm", "positions": "rotary"},
]


def fill(module: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter a value far from zero, so that no branch is closed."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual.float() - expected).norm() / expected.norm()).item()


def make_tokens(model: VidTwinDiT) -> torch.Tensor:
    return torch.randn(2, *model.layout.mask.shape, generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=VARIANTS, ids=str)
def variant(request) -> dict:
    return {**TINY, **request.param}


def test_output_is_zero_at_initialisation(variant):
    model = VidTwinDiT(**variant)
    sample = model(make_tokens(model), torch.tensor([1.0, 900.0]), LABELS).sample
    assert torch.equal(sample, torch.zeros_like(sample))


@pytest.mark.parametrize("groups", [1, 2])
def test_blocks_are_the_identity_at_initialisation(variant, groups):
    model = VidTwinDiT(**variant)
    x, condition = torch.randn(2, 10, 32), torch.randn(2, groups, 32)
    class_vector = torch.randn(2, 1, 8) if "conditioning" in variant else None
    rotary = rotary_positions(torch.randint(5, (10, 3)), 8) if "positions" in variant else None
    arguments = (x, condition, (6, 4), class_vector, rotary)
    assert torch.equal(model.blocks[1](*arguments), x)
    fill(model)
    assert not torch.allclose(model.blocks[1](*arguments), x)


def test_every_parameter_gets_a_gradient(variant):
    model = fill(VidTwinDiT(**variant))
    model(make_tokens(model), torch.tensor([1.0, 900.0]), LABELS).sample.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_padding_never_matters(variant):
    model = fill(VidTwinDiT(**variant))
    tokens, time = make_tokens(model), torch.tensor([1.0, 900.0])
    assert not model.mask.all()
    expected = model(tokens, time, LABELS).sample
    assert expected[:, model.mask].all()
    assert not expected[:, ~model.mask].any()
    for padding in (1e4, torch.nan):
        assert torch.equal(model(tokens.masked_fill(~model.mask, padding), time, LABELS).sample, expected)


def test_time_is_shared_or_one_per_latent(variant):
    model = fill(VidTwinDiT(**variant))
    tokens, n = make_tokens(model), model.layout.num_structure_tokens
    shared = model(tokens, torch.tensor([100.0, 900.0]), LABELS).sample
    split = model(tokens, torch.tensor([[100.0, 100.0], [900.0, 900.0]]), LABELS).sample
    assert relative_error(split, shared) < 1e-5
    other = model(tokens, torch.tensor([[100.0, 700.0], [900.0, 900.0]]), LABELS).sample
    assert not torch.allclose(other[0, n:], shared[0, n:])
    assert relative_error(other[1], shared[1]) < 1e-5
    scalar = model(tokens, 100.0, LABELS).sample
    assert relative_error(scalar[0], shared[0]) < 1e-5


def test_first_time_belongs_to_structure_and_second_to_dynamics():
    block = fill(DiTBlock(32, 4, 64)).eval()
    torch.nn.init.zeros_(block.attention.proj.weight)  # leaves no way from token to token
    x, condition = torch.randn(1, 10, 32), torch.randn(1, 2, 32)
    before = block(x, condition, (6, 4))
    condition[:, 1] += 1
    after = block(x, condition, (6, 4))
    assert torch.equal(after[:, :6], before[:, :6])
    assert (after[:, 6:] != before[:, 6:]).any(dim=-1).all()


def test_frames_may_have_a_time_each(variant):
    model = fill(VidTwinDiT(**variant))
    tokens, rows = make_tokens(model), model.layout.time_rows
    assert model.layout.num_frame_patches == 3 and rows.max() == 3
    two, four = torch.tensor([[700.0, 30.0]] * 2), torch.tensor([[700.0, 30.0, 30.0, 30.0]] * 2)
    expected = model(tokens, two, LABELS).sample
    torch.testing.assert_close(model(tokens, four, LABELS).sample, expected)
    # Where tokens do not see each other, a time concerns the tokens of its frames alone.
    for block in model.blocks:
        torch.nn.init.zeros_(block.attention.proj.weight)
    before = model(tokens, four, LABELS).sample
    for column in range(4):
        times = four.clone()
        times[:, column] = 400
        changed = (model(tokens, times, LABELS).sample != before).any(dim=2)  # (2, N)
        assert torch.equal(changed, (rows == column).expand(2, -1))


def test_label_changes_every_token(variant):
    model = fill(VidTwinDiT(**variant))
    tokens = make_tokens(model)[:1].expand(2, -1, -1)
    first, null = model(tokens, 500, LABELS).sample
    assert (first != null).any(dim=-1).all()


def test_structure_and_dynamics_see_each_other():
    model = fill(VidTwinDiT(**TINY))
    tokens, n = make_tokens(model), model.layout.num_structure_tokens
    changed = tokens.clone()
    changed[:, n:] += model.mask[n:]
    difference = model(changed, 500, LABELS).sample - model(tokens, 500, LABELS).sample
    assert difference[:, :n].abs().amax(dim=-1).min() > 0


def test_tokens_know_their_place_and_type(variant):
    model = fill(VidTwinDiT(**variant))
    for linear in (model.structure_in, model.dynamics_in):  # nothing but the embedding is to tell the types apart
        torch.nn.init.zeros_(linear.bias)
    last = {}
    model.final_layer.register_forward_pre_hook(lambda module, arguments: last.update(x=arguments[0][0]))
    model(torch.zeros(1, *model.mask.shape), 500, LABELS[:1])
    assert torch.pdist(last["x"]).min() > 1e-3


class Recorder(AttentionProcessor):
    """Keeps what the attention of one block scores: queries and keys (B, N, H, D)."""

    def __call__(self, query, key, value, **options):
        self.query, self.key = query.detach(), key.detach()
        return super().__call__(query, key, value, **options)

    @property
    def scores(self) -> torch.Tensor:
        """(N, N, H) of the first sample."""
        return torch.einsum("ihd,jhd->ijh", self.query[0], self.key[0])


@pytest.mark.parametrize("qk_norm", ["none", "rms_norm"])
def test_rotary_scores_depend_on_how_far_apart_tokens_of_a_type_lie_and_on_nothing_else(qk_norm):
    model = fill(VidTwinDiT(**TINY, positions="rotary", qk_norm=qk_norm))
    attention, recorder, layout = model.blocks[0].attention, Recorder(), model.layout
    attention.set_processor(recorder)
    x = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(3)).expand(-1, layout.num_tokens, -1)

    def scores(shift=0):
        attention(x, rotary_positions(layout.positions + torch.tensor(shift), 8))
        return recorder.scores

    torch.testing.assert_close(scores(shift=[3, 1, 7]), scores(), rtol=1e-4, atol=1e-4)
    n = layout.num_structure_tokens
    for tokens in (slice(0, n), slice(n, None)):
        places = layout.positions[tokens]
        apart = (places[:, None] - places).flatten(0, 1)  # (n n, 3)
        of_type = scores()[tokens, tokens].flatten(0, 1)  # (n n, H)
        distances, group = apart.unique(dim=0, return_inverse=True)
        first = torch.stack([of_type[group == index][0] for index in range(len(distances))])
        torch.testing.assert_close(of_type, first[group], rtol=1e-4, atol=1e-4)
        assert torch.pdist(first).min() > 1e-3  # every distance has scores of its own
    attention(x)
    assert torch.allclose(recorder.scores, recorder.scores[:1, :1])


def test_rotary_uses_the_coordinates_of_each_type():
    model = fill(VidTwinDiT(**TINY, positions="rotary"))
    turns = {}
    model.blocks[1].attention.register_forward_pre_hook(lambda module, arguments: turns.update(used=arguments[1]))
    model(make_tokens(model), 500, LABELS)
    layout = model.layout
    queries, frames = range(3), range(3)
    places = [(query, row, column) for query in queries for row in range(2) for column in range(2)]
    places += [(frame, axis, place) for axis in range(2) for frame in frames for place in range(2)]
    assert len(places) == layout.num_tokens
    # Heads of 8 numbers: two pairs for the first coordinate, at 1 and 1/10, and one at 1 for each of the others.
    angles = torch.tensor([[a, a, a / 10, a / 10, b, b, c, c] for a, b, c in places])
    torch.testing.assert_close(turns["used"], (angles.cos(), angles.sin()))


def test_rotary_turns_in_fp32_and_hands_on_the_dtype():
    model = fill(VidTwinDiT(**TINY, positions="rotary"))
    attention, recorder, turns = model.blocks[0].attention, Recorder(), {}
    attention.set_processor(recorder)
    attention.register_forward_pre_hook(lambda module, arguments: turns.update(used=arguments[1]))
    expected = rotary_positions(model.layout.positions, 8)
    tokens = make_tokens(model)
    with torch.autocast("cpu", torch.bfloat16):
        model(tokens, 500, LABELS)
    assert all(torch.equal(a, b) for a, b in zip(turns["used"], expected, strict=True))
    assert recorder.query.dtype == recorder.key.dtype == torch.bfloat16
    model.to(torch.bfloat16)(tokens.bfloat16(), 500, LABELS)
    assert all(torch.equal(a, b) for a, b in zip(turns["used"], expected, strict=True))
    assert recorder.query.dtype == recorder.key.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["independent_times", "frame_times"])
def test_kinds_of_times_are_noted_and_change_nothing(name):
    models = [fill(VidTwinDiT(**TINY, **{name: value})) for value in (False, True)]
    assert [model.config[name] for model in models] == [False, True]
    time = torch.tensor([[1.0, 20.0], [900.0, 0.0]])
    samples = [model(make_tokens(model), time, LABELS).sample for model in models]
    assert torch.equal(*samples)


def test_rotary_tables_are_made_once_and_stay_fp32(monkeypatch):
    """Whatever the model is cast or moved to; a copy and a saved model have them, too, and no file holds them."""
    model = fill(VidTwinDiT(**TINY, positions="rotary"))
    inputs = {"tokens": make_tokens(model), "timestep": torch.tensor([0.0, 1000.0]), "class_labels": LABELS}
    expected = model(**inputs).sample
    tables = model.rotary_cos.clone(), model.rotary_sin.clone()
    assert not any("rotary" in name for name in model.state_dict())
    for back in (model.to(torch.bfloat16), model.half(), model.double(), model.float(), copy.deepcopy(model)):
        for table, buffer in zip(tables, (back.rotary_cos, back.rotary_sin), strict=True):
            assert buffer.dtype == torch.float32 and torch.equal(buffer, table)
    assert model.to("meta").rotary_cos.is_meta

    model = fill(VidTwinDiT(**TINY, positions="rotary"))
    monkeypatch.setattr("generator.dit.rotary_positions", None)
    assert torch.equal(model(**inputs).sample, expected)


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_gradient_checkpointing_gives_the_same_gradients(positions):
    gradients = []
    for checkpointing in (False, True):
        model = fill(VidTwinDiT(**TINY, conditioning="cross_attention", positions=positions)).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
            assert model.gradient_checkpointing
        model(make_tokens(model), torch.tensor([[1.0, 2.0], [900.0, 5.0]]), LABELS).sample.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_train_mode_changes_nothing():
    model = fill(VidTwinDiT(**TINY))
    tokens = make_tokens(model)
    assert torch.equal(model.train()(tokens, 5, LABELS).sample, model.eval()(tokens, 5, LABELS).sample)


def test_half_precision(variant):
    model = fill(VidTwinDiT(**variant))
    tokens = make_tokens(model)
    time = torch.tensor([[1.0, 20.0], [900.0, 5.0]])
    expected = model(tokens, time, LABELS).sample
    with torch.autocast("cpu", torch.bfloat16):
        assert relative_error(model(tokens, time, LABELS).sample, expected) < 0.05
    sample = model.to(torch.bfloat16)(tokens.bfloat16(), time, LABELS).sample
    assert sample.dtype == torch.bfloat16
    assert relative_error(sample, expected) < 0.1


def test_attention_backends():
    model = fill(VidTwinDiT(**TINY))
    assert len(model.attn_processors) == 2
    tokens = make_tokens(model)
    expected = model(tokens, 5, LABELS).sample
    try:
        model.set_attention_backend("_native_math")
        assert relative_error(model(tokens, 5, LABELS).sample, expected) < 1e-5
        with pytest.raises(ValueError, match="no_such_backend"):
            model.set_attention_backend("no_such_backend")
    finally:
        model.set_attention_backend("native")  # the choice is also kept globally


def test_flash_backend_is_refused_where_it_is_not_installed():
    from diffusers.utils.import_utils import is_flash_attn_available

    if is_flash_attn_available():
        pytest.skip("flash-attn is installed here")
    with pytest.raises(RuntimeError, match="flash"):
        VidTwinDiT(**TINY).set_attention_backend("flash")


def test_normalize_and_back():
    statistics = {
        "structure_mean": [0.0, 1.0, -2.0, 3.0],
        "structure_std": [1.0, 2.0, 0.5, 4.0],
        "dynamics_mean": [1.0] * 6,
        "dynamics_std": [2.0, 1.0, 1.0, 1.0, 1.0, 0.1],
    }
    model = VidTwinDiT(**TINY, **statistics)
    generator = torch.Generator().manual_seed(0)
    latents = VidTwinLatents(
        torch.randn(2, 4, 5, 3, 3, generator=generator), torch.randn(2, 6, 5, 7, generator=generator)
    )
    scaled = model.normalize(latents)
    torch.testing.assert_close(scaled.structure[:, 3], (latents.structure[:, 3] - 3.0) / 4.0)
    torch.testing.assert_close(scaled.dynamics[:, 5], (latents.dynamics[:, 5] - 1.0) / 0.1)
    back = model.to(torch.bfloat16).denormalize(scaled)  # the statistics keep their precision
    torch.testing.assert_close(back.structure, latents.structure)
    torch.testing.assert_close(back.dynamics, latents.dynamics)
    unchanged = VidTwinDiT(**TINY).normalize(latents)
    assert torch.equal(unchanged.structure, latents.structure)


RELOAD = """
import sys, torch
from generator import VidTwinDiT
model = VidTwinDiT.from_pretrained(sys.argv[1])
assert not model.training and model.config.id2label["2"] == "c" and model.layout.dynamics_axes == (3, 4)
assert model.config.independent_times and model.config.prediction_type == "v_prediction"
inputs = torch.load(sys.argv[1] + "/inputs.pt")
latents = model.normalize(model.layout.unpack(inputs["tokens"]))
torch.save((model(**inputs).sample, latents.structure), sys.argv[1] + "/outputs.pt")
"""


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_saved_and_loaded_in_a_new_process_bit_for_bit(tmp_path, positions):
    options = {"positions": positions, "prediction_type": "v_prediction", "independent_times": True}
    names = {0: "a", 1: "b", 2: "c"}
    model = fill(VidTwinDiT(**TINY, **options, structure_std=[1.0, 2.0, 3.0, 4.0], id2label=names))
    inputs = {"tokens": make_tokens(model), "timestep": torch.tensor([1.0, 900.0]), "class_labels": LABELS}
    expected = model(**inputs).sample, model.normalize(model.layout.unpack(inputs["tokens"])).structure
    model.save_pretrained(tmp_path)
    torch.save(inputs, tmp_path / "inputs.pt")
    subprocess.run([sys.executable, "-c", RELOAD, str(tmp_path)], check=True)
    assert all(torch.equal(a, b) for a, b in zip(torch.load(tmp_path / "outputs.pt"), expected, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditioning": "film"}, "conditioning must be one of adaln_zero, cross_attention, got 'film'"),
        ({"norm": "batch"}, "norm must be one of layer_norm"),
        ({"feed_forward": "relu"}, "feed_forward must be one of gelu"),
        ({"qk_norm": "l2"}, "qk_norm must be one of none"),
        ({"positions": "learned"}, "positions must be one of sincos, rotary, got 'learned'"),
        (
            {"prediction_type": "noise"},
            "prediction_type must be one of flow, flow_sample, sample, epsilon, v_prediction, got 'noise'",
        ),
        ({"positions": "rotary", "num_attention_heads": 8}, "even width of at least 6, got 4 of hidden_size=32 and"),
        ({"positions": "rotary", "hidden_size": 36}, "even width of at least 6, got 9 of hidden_size=36"),
        ({"num_attention_heads": 5}, "num_attention_heads=5 does not divide the width 32"),
        ({"num_layers": 0}, "num_layers must be positive, got 0"),
        ({"hidden_size": 33, "num_attention_heads": 1}, "hidden_size must be even and at least 6, got 33"),
        ({"dynamics_axes": (3, 3)}, "must add up"),
        ({"structure_mean": [0.0]}, "structure_mean must hold 4 numbers"),
        ({"dynamics_std": [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]}, "channel 2 of the dynamics latent"),
        ({"structure_std": [1.0, 1.0, 1.0, float("nan")]}, "channel 3 of the structure latent"),
        ({"id2label": {"0": "a", "1": "b"}}, "ids 0 to 2 of num_classes=3"),
    ],
)
def test_wrong_configs_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        VidTwinDiT(**{**TINY, **change})


def test_wrong_inputs_are_named():
    model = VidTwinDiT(**TINY)
    tokens = make_tokens(model)
    with pytest.raises(ValueError, match="tokens must be"):
        model(tokens[:, 1:], 5, LABELS)
    with pytest.raises(ValueError, match=r"scalar, \(2,\), \(2, 2\) or \(2, 4\).* holds 2 of them, got \(3,\)"):
        model(tokens, torch.ones(3), LABELS)
    with pytest.raises(ValueError, match=r"class_labels must be \(2,\)"):
        model(tokens, 5, LABELS[:1])


def test_paper_size():
    with torch.device("meta"):
        model = VidTwinDiT(conditioning="cross_attention", prediction_type="sample")
    assert model.layout.num_tokens == 16 * 7 * 7 + 16 * (7 + 7)
    c, k = 1152, 256
    attention, feed_forward = 4 * c * c + 4 * c, 8 * c * c + 5 * c
    block = attention + feed_forward + 6 * c * c + 6 * c + (k * c + c) + (c * c + c)
    ends = (4 * c + c) + (8 * c + c) + 2 * c * c + 2 * c + (4 * c + 4) + (8 * c + 8)
    embeddings = 3 * c + 102 * k + (256 * c + c) + (c * c + c)
    assert sum(p.numel() for p in model.parameters()) == 18 * block + ends + embeddings
