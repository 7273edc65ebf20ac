"""LoRA of the transformer: without effect at first, loaded, fused, unloaded to the bit; and what is refused."""

import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import NAMES, max_difference, noise_latents, tiny_pipeline

from autoencoder.checkpoint import fingerprint
from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.latents import VidTwinLatents
from generator import VidTwinDiT
from generator.averages import averaged_model, make_average
from generator.lora import add_lora, keeping_base, target_modules
from generator.lora_weights import LoraWeights, base_identity
from pipelines import VidTwinDiffusionPipeline

pytest.importorskip("peft")

TARGETS = ("attention", "feed_forward")
NEW = ("Diamond Left", "Diamond Right")


def adapted(new_classes: tuple[str, ...] = NEW, seed: int = 0, rank: int = 2) -> tuple[VidTwinDiT, LoraWeights]:
    """The tiny transformer with an adapter and rows that a training might have left, and these as weights."""
    model = tiny_pipeline().transformer
    base = base_identity(model)
    add_lora(model, rank, 3.0, TARGETS, new_classes)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return model, LoraWeights.trained(model, base)


def saved(folder, new_classes: tuple[str, ...] = NEW, seed: int = 0):
    adapted(new_classes, seed)[1].save(folder)
    return folder


def sample(pipe: VidTwinDiffusionPipeline, class_id: str):
    """Latents of a class, always from the same noise."""
    return pipe(class_id, 3, 2.0, latents=noise_latents(pipe, 1), output_type="latent").frames


def in_another_process(tmp_path, load: str, class_id: str) -> VidTwinLatents:
    """What `sample` gives there, of the `pipe` that a line makes of a `Pipeline`."""
    script = (
        "from pipelines import VidTwinDiffusionPipeline as Pipeline\n"
        "from test_lora import sample\n"
        f"{load}\nsample(pipe, {class_id!r}).save({str(tmp_path / 'out.safetensors')!r})"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent, timeout=120)
    return VidTwinLatents.load(tmp_path / "out.safetensors")


def content(folder: Path) -> tuple[dict[str, list], dict[str, str]]:
    """The tensors of a file, as lists, and its metadata; their order in the file changes from process to process."""
    with safe_open(folder / LORA_WEIGHT_NAME_SAFE, "pt") as file:
        return {name: file.get_tensor(name).tolist() for name in file.keys()}, file.metadata()  # noqa: SIM118


def inputs(model: VidTwinDiT, label: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    shape = 1, model.layout.num_tokens, model.layout.token_dim
    return torch.randn(shape, generator=generator), torch.tensor([300.0]), torch.tensor([label])


def test_adapters_change_nothing_at_first_and_leave_the_base_frozen():
    before, model = tiny_pipeline().transformer, tiny_pipeline().transformer
    add_lora(model, 4, None, TARGETS, NEW)
    for label, new_label in ((0, 0), (2, 2), (len(NAMES), len(NAMES) + 2)):  # the null class comes last in both
        old, new = before(*inputs(before, label)).sample, model(*inputs(model, new_label)).sample
        assert torch.equal(old, new)
    mean = before.class_embedding.weight[: len(NAMES)].mean(0)
    assert torch.equal(model.class_embedding.weight[len(NAMES)], mean), "a new class begins as the mean"
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".lora_" in name or "trainable_tokens_delta" in name for name in trained)
    linears = target_modules(before, TARGETS, 4)
    assert len(linears) == 2 * 4 and len(trained) == 2 * len(linears) + 1


def test_training_leaves_the_rows_of_old_classes_to_the_bit():
    model = tiny_pipeline().transformer
    before = model.class_embedding.weight.detach().clone()
    add_lora(model, 2, None, TARGETS, NEW)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    for label in (0, 3, 4):
        model(*inputs(model, label)).sample.square().sum().backward()
        optimizer.step()
    rows = model.class_embedding.weight.detach()
    assert torch.equal(rows[[0, 1, 2, 5]], before), "old classes, and the null class"
    assert not torch.equal(rows[3], rows[4])


def test_a_fused_model_is_an_unfused_one_and_unfusing_gives_the_bits_back(tmp_path):
    pipe = tiny_pipeline()
    pipe.load_lora_weights(saved(tmp_path))
    unfused, expected = sample(pipe, NEW[0]), adapted()[0]
    weights = {name: weight.clone() for name, weight in pipe.transformer.state_dict().items()}
    with torch.no_grad():
        difference = expected(*inputs(expected, 3)).sample - pipe.transformer(*inputs(expected, 3)).sample
    assert difference.abs().max() <= 1e-5, "what was trained is what is loaded"

    pipe.fuse_lora()
    assert max_difference(sample(pipe, NEW[0]), unfused) <= 1e-5
    assert pipe.num_fused_loras == 1
    pipe.unfuse_lora()
    assert all(torch.equal(weight, weights[name]) for name, weight in pipe.transformer.state_dict().items())
    assert pipe.num_fused_loras == 0 and max_difference(sample(pipe, NEW[0]), unfused) == 0

    pipe.fuse_lora(lora_scale=0.5)
    half = sample(pipe, NEW[0])
    assert max_difference(half, unfused) > 1e-3
    pipe.unfuse_lora()
    assert max_difference(sample(pipe, NEW[0]), unfused) == 0, "a scale of the fusing does not stay behind"
    pipe.fuse_lora(lora_scale=0.0)
    assert max_difference(sample(pipe, NAMES[2]), sample(tiny_pipeline(), NAMES[2])) == 0, "nothing of it is left"
    pipe.unfuse_lora()
    pipe.set_adapters("default_0", 0.5)
    assert max_difference(sample(pipe, NEW[0]), half) <= 1e-5


def test_unloading_gives_the_base_back_to_the_bit(tmp_path):
    pipe = tiny_pipeline()
    before, old = fingerprint(pipe.transformer), sample(pipe, NAMES[1])
    pipe.load_lora_weights(saved(tmp_path))
    assert pipe.label(NEW[1]) == 4 and max_difference(sample(pipe, NAMES[1]), old) > 1e-3
    pipe.fuse_lora()
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    assert fingerprint(pipe.transformer) == before and max_difference(sample(pipe, NAMES[1]), old) == 0
    with pytest.raises(UserError, match="there is no class 'Diamond Left'"):
        pipe.label(NEW[0])


def test_fused_and_unloaded_it_is_a_pipeline_as_any_other(tmp_path):
    pipe = tiny_pipeline()
    pipe.load_lora_weights(saved(tmp_path / "lora"))
    with pytest.raises(UserError, match=r"holds the adapters default_0, .*fuse_lora\(\) and then unload"):
        pipe.save_pretrained(tmp_path / "half")
    assert not (tmp_path / "half").exists()
    pipe.fuse_lora()
    expected = sample(pipe, NEW[0])
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "whole")
    whole = VidTwinDiffusionPipeline.from_pretrained(tmp_path / "whole")
    assert max_difference(sample(whole, NEW[0]), expected) == 0
    assert not hasattr(whole.transformer, "peft_config") and whole.transformer.config.num_classes == 5


def test_adapters_cost_until_they_are_fused(tmp_path):
    pipe = tiny_pipeline()

    def flops() -> int:
        return pipe(NAMES[0], 2, generator=0).cost.sampling.flops

    base = flops()
    pipe.load_lora_weights(saved(tmp_path))
    assert flops() > base
    pipe.fuse_lora()
    assert flops() == base


def test_adapters_that_are_disabled_cost_nothing_and_fused_ones_are_not_touched(tmp_path):
    pipe = tiny_pipeline()

    def flops() -> int:
        return pipe(NAMES[0], 2, generator=0).cost.sampling.flops

    base, old = flops(), sample(pipe, NAMES[0])
    pipe.load_lora_weights(saved(tmp_path))
    adapted_flops, new = flops(), sample(pipe, NAMES[0])
    pipe.disable_lora()
    assert flops() == base and max_difference(sample(pipe, NAMES[0]), old) == 0
    with pytest.raises(UserError, match=r"fuse_lora: the adapters are disabled: enable_lora\(\) first"):
        pipe.fuse_lora()
    pipe.enable_lora()
    assert flops() == adapted_flops and max_difference(sample(pipe, NAMES[0]), new) == 0
    pipe.fuse_lora()
    for call in (pipe.disable_lora, pipe.enable_lora, lambda: pipe.set_adapters("default_0", 0.5)):
        with pytest.raises(UserError, match=r"_(lora|adapters): adapters are fused already: unfuse_lora\(\) first"):
            call()
    assert flops() == base and max_difference(sample(pipe, NAMES[0]), new) <= 1e-5


def test_a_fusing_that_fails_leaves_nothing_fused(tmp_path):
    pipe = tiny_pipeline()
    weights = adapted()[1]
    last = "blocks.1.feed_forward.2.lora_B.weight"
    assert list(weights.layers)[-1] == last
    layers = weights.layers | {last: torch.full_like(weights.layers[last], 3e38)}  # its product overflows
    layers[last.replace("lora_B", "lora_A")] = 9 * weights.layers[last.replace("lora_B", "lora_A")]
    replace(weights, layers=layers).save(tmp_path)
    pipe.load_lora_weights(tmp_path)
    pipe.set_adapters("default_0", 0.25)
    layer = pipe.transformer.blocks[0].attention.qkv
    before, scale = fingerprint(pipe.transformer), layer.scaling["default_0"]
    with pytest.raises(ValueError, match="NaN"):
        pipe.fuse_lora(lora_scale=0.5, safe_fusing=True)
    assert fingerprint(pipe.transformer) == before and not layer.merged and layer.scaling["default_0"] == scale
    pipe.unload_lora_weights()
    assert fingerprint(pipe.transformer) == fingerprint(tiny_pipeline().transformer)


def test_two_adapters_bring_their_classes_and_take_them_away(tmp_path):
    first, second = saved(tmp_path / "a"), saved(tmp_path / "b", ("Star",), seed=1)
    alone = tiny_pipeline()
    alone.load_lora_weights(second)
    pipe = tiny_pipeline()
    before = fingerprint(pipe.transformer)
    pipe.load_lora_weights(first, adapter_name="diamonds")
    pipe.load_lora_weights(second, adapter_name="stars")
    assert pipe.get_list_adapters() == {"transformer": ["diamonds", "stars"]} and pipe.label("Star") == 5
    pipe.set_adapters("stars")
    assert max_difference(sample(pipe, "Star"), sample(alone, "Star")) <= 1e-5
    pipe.save_lora_weights(tmp_path / "again", "stars")
    assert content(tmp_path / "again") == content(second)
    pipe.delete_adapters("diamonds")
    assert pipe.label("Star") == 3 and max_difference(sample(pipe, "Star"), sample(alone, "Star")) <= 1e-5
    pipe.delete_adapters("stars")
    assert fingerprint(pipe.transformer) == before


def test_a_file_is_loaded_in_another_process_and_by_diffusers_itself(tmp_path):
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "pipeline")
    pipe.load_lora_weights(saved(tmp_path / "lora"))
    expected = sample(pipe, NEW[1])
    load = f"pipe = Pipeline.from_pretrained({str(tmp_path / 'pipeline')!r})\n"
    load += f"pipe.load_lora_weights({str(tmp_path / 'lora')!r})"
    assert max_difference(in_another_process(tmp_path, load, NEW[1]), expected) == 0

    plain = tiny_pipeline().transformer
    plain.load_lora_adapter(tmp_path / "lora", use_safetensors=True)
    known = adapted()[0]
    old, new = plain(*inputs(plain, 1)).sample, known(*inputs(known, 1)).sample
    assert (old - new).abs().max() <= 1e-5


def test_a_pipeline_in_bf16_knows_its_adapters(tmp_path):
    saved(tmp_path / "lora")
    tiny_pipeline().save_pretrained(tmp_path / "pipeline")
    pipe = VidTwinDiffusionPipeline.from_pretrained(tmp_path / "pipeline", dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    before = fingerprint(pipe.transformer)
    pipe.load_lora_weights(tmp_path / "lora")
    assert pipe(NEW[0], 2, 2.0, generator=0).frames.shape[0] == 1
    pipe.unload_lora_weights()
    assert fingerprint(pipe.transformer) == before


def test_wrong_files_are_refused_and_leave_the_pipeline_as_it_was(tmp_path):
    pipe = tiny_pipeline()
    before = fingerprint(pipe.transformer)
    with pytest.raises(MissingFileError, match="there is no LoRA in .*nothing.*--lora-rank"):
        pipe.load_lora_weights(tmp_path / "nothing")
    (tmp_path / "bad.safetensors").write_bytes(b"not a file")
    with pytest.raises(UserError, match="no whole safetensors file, and nothing else is read"):
        pipe.load_lora_weights(tmp_path / "bad.safetensors")
    save_file({"transformer.a.lora_A.weight": torch.zeros(1, 1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="does not say which transformer it was trained for"):
        pipe.load_lora_weights(tmp_path / "foreign.safetensors")
    other = tiny_pipeline(names=("a", "b"))
    before_other = fingerprint(other.transformer)
    with pytest.raises(UserError, match=r"was trained for another transformer, one of SHA-256 \w{12}; this one is"):
        other.load_lora_weights(saved(tmp_path / "lora"))
    weights = adapted()[1]
    broken = {name: tensor[:, :-1] if "lora_A" in name else tensor for name, tensor in weights.layers.items()}
    replace(weights, layers=broken).save(tmp_path / "cut")
    with pytest.raises(
        UserError,
        match=r"does not fit this transformer, .*: blocks.0.attention.proj.lora_A.weight \(2, 31\) .*8 in",
    ):
        pipe.load_lora_weights(tmp_path / "cut")
    assert fingerprint(pipe.transformer) == before and fingerprint(other.transformer) == before_other

    replace(weights, class_rows=weights.class_rows[:, 1:]).save(tmp_path / "narrow")
    with pytest.raises(UserError, match=r"narrow does not fit .*: class_rows \(2, 31\) for \(2, 32\)$"):
        pipe.load_lora_weights(tmp_path / "narrow")
    assert not hasattr(pipe.transformer, "peft_config") and pipe.transformer.config.num_classes == len(NAMES)

    pipe.load_lora_weights(tmp_path / "lora", adapter_name="one")
    replace(weights, layers=broken, class_names=["x", "y"]).save(tmp_path / "cut")
    with pytest.raises(
        UserError, match=r"does not fit this transformer, .*: blocks.0.attention.proj.lora_A.weight .*8 in"
    ):
        pipe.load_lora_weights(tmp_path / "cut")
    assert pipe.get_list_adapters() == {"transformer": ["one"]}
    with pytest.raises(UserError, match="adapter_name='one' is in use"):
        pipe.load_lora_weights(tmp_path / "lora", adapter_name="one")
    with pytest.raises(UserError, match="brings the class 'Diamond Left', which the pipeline has already"):
        pipe.load_lora_weights(tmp_path / "lora")
    with pytest.raises(UserError, match="adapter_name='two' is none of the loaded adapters: one"):
        pipe.save_lora_weights(tmp_path, "two")
    with pytest.raises(UserError, match="unfuse_lora: no adapter is fused"):
        pipe.unfuse_lora()
    pipe.fuse_lora()
    with pytest.raises(UserError, match="fused already"):
        pipe.fuse_lora()
    with pytest.raises(UserError, match="delete_adapters: adapters are fused already: unfuse_lora"):
        pipe.delete_adapters("one")


QKV = "blocks.0.attention.qkv.lora_"
SETTINGS = {
    "r=3 .*lora_A.weight \\(2, 32\\) for \\(3, 32\\)": {"r": 3},
    "r=64 .*lora_A.weight": {"r": 64},
    "the rank r of .* of at least 1, got 0": {"r": 0},
    "the rank r of .* got None": {"r": None},
    "the rank r of .* got '2'": {"r": "2"},
    "lora_alpha of .* positive number, got 'x'": {"lora_alpha": "x"},
    "lora_alpha of .* got nan": {"lora_alpha": float("nan")},
    "target_modules must name the linears .* got \\[\\]": {"target_modules": []},
    "proj.lora_A.weight \\(2, 32\\) for none, .*18 in all": {"target_modules": ["foo"]},
    "settings that `--lora-rank` does not make .*: rank_pattern={'qkv': 5}": {"rank_pattern": {"qkv": 5}},
    "settings .*: use_dora=True": {"use_dora": True},
    "settings .* with peft [0-9.]+: unheard_of=1": {"unheard_of": 1},
    "settings .*: modules_to_save=\\['structure_in'\\]": {"modules_to_save": ["structure_in"]},
}
LAYERS = {
    "qkv.lora_A.weight \\(1, 32\\) for \\(2, 32\\)": lambda layers: layers | {QKV + "A.weight": torch.ones(1, 32)},
    "qkv.lora_A.weight \\(64,\\) for": lambda layers: layers | {QKV + "A.weight": torch.ones(64)},
    "qkv.lora_B.weight none for \\(96, 2\\)": lambda layers: {
        name: layer for name, layer in layers.items() if name != QKV + "B.weight"
    },
    "magnitude_vector \\(96,\\) for none": lambda layers: layers | {QKV + "magnitude_vector": torch.ones(96)},
    "NaN or infinity, .*: blocks.0.attention.qkv.lora_B": lambda layers: (
        layers | {QKV + "B.weight": torch.full((96, 2), torch.nan)}
    ),
    "holds torch.int32, where floats": lambda layers: {name: layer.int() for name, layer in layers.items()},
}
ABOUT = {
    "brings one class twice: x, x": {"class_names": ["x", "x"]},
    "does not say which transformer": {"class_names": "xy"},
    "does not say which .* it is not a LoRA": {"class_names": [1, 2]},
    "does not say .* it was trained for": {"base": {}},
    "does not say .* was trained for": {"base": "abc"},
    "holds NaN or infinity, by .*: class_rows": {"class_rows": torch.full((2, 32), torch.inf)},
}


@pytest.mark.parametrize(
    "message, changes",
    [
        *((message, lambda lora, new=new: {"config": lora.config | new}) for message, new in SETTINGS.items()),
        *((message, lambda lora, new=new: {"layers": new(lora.layers)}) for message, new in LAYERS.items()),
        *((message, lambda lora, new=new: new) for message, new in ABOUT.items()),
    ],
    ids=[*SETTINGS, *LAYERS, *ABOUT],
)
def test_what_no_training_has_written_is_refused_before_anything_is_loaded(tmp_path, message, changes):
    lora = adapted()[1]
    replace(lora, **changes(lora)).save(tmp_path)
    pipe = tiny_pipeline()
    with pytest.raises(UserError, match=message) as caught:
        pipe.load_lora_weights(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert not hasattr(pipe.transformer, "peft_config") and pipe.transformer.config.num_classes == len(NAMES)


def test_names_that_no_adapter_has_or_can_have(tmp_path):
    pipe, folder = tiny_pipeline(), saved(tmp_path)
    for name in ("a.b", "keys", 3):
        with pytest.raises(UserError, match=f"adapter_name={name!r} cannot be one"):
            pipe.load_lora_weights(folder, adapter_name=name)
    pipe.load_lora_weights(folder, adapter_name="one")
    before = sample(pipe, NEW[0])
    calls = [pipe.set_adapters, pipe.delete_adapters, lambda name: pipe.fuse_lora(adapter_names=[name])]
    for call in calls:
        with pytest.raises(UserError, match="adapter_name='two' is none of the loaded adapters: one"):
            call("two")
    for call in (lambda: pipe.set_adapters([]), lambda: pipe.fuse_lora(adapter_names=[])):
        with pytest.raises(UserError, match="adapter_name=None is none of the loaded adapters: one"):
            call()
    assert max_difference(sample(pipe, NEW[0]), before) == 0
    pipe.fuse_lora()  # nothing is fused yet


def test_classes_cannot_join_those_without_names(tmp_path):
    pipe = tiny_pipeline()
    pipe.transformer.register_to_config(id2label=None)
    with pytest.raises(UserError, match="brings classes, and those of this transformer have no names"):
        pipe.load_lora_weights(saved(tmp_path / "two"))
    pipe.load_lora_weights(saved(tmp_path / "none", ()))
    assert pipe.get_list_adapters() == {"transformer": ["default_0"]}


def test_adapters_go_with_their_transformer_from_pipeline_to_pipeline(tmp_path):
    pipe = tiny_pipeline()
    before = fingerprint(pipe.transformer)
    pipe.load_lora_weights(saved(tmp_path / "lora"))
    again = VidTwinDiffusionPipeline(vae=pipe.vae, transformer=pipe.transformer, scheduler=pipe.scheduler)
    with pytest.raises(UserError, match="the pipeline holds the adapters default_0"):
        again.save_pretrained(tmp_path / "half")
    again.load_lora_weights(saved(tmp_path / "star", ("Star",)))
    assert pipe.label("Star") == 5
    pipe.transformer = tiny_pipeline().transformer
    pipe.save_pretrained(tmp_path / "whole")
    again.unload_lora_weights()
    assert fingerprint(again.transformer) == before


def test_without_peft_there_is_one_sentence(tmp_path, monkeypatch):
    saved(tmp_path)
    monkeypatch.setattr("generator.lora.find_spec", lambda name: None if name == "peft" else find_spec(name))
    with pytest.raises(UserError, match=r'not installed: pip install "vidtwin\[lora\]"'):
        tiny_pipeline().load_lora_weights(tmp_path)


def test_the_file_says_what_it_holds(tmp_path):
    saved(tmp_path)
    tensors, about = content(tmp_path)
    assert {name.split(".")[0] for name in tensors} == {"transformer", "class_rows"}
    assert json.loads(about["vidtwin_lora"])["class_names"] == list(NEW)
    assert json.loads(about["lora_adapter_metadata"])["transformer.r"] == 2


def test_an_average_of_adapters_is_a_model_of_its_own():
    model, _ = adapted()
    average, state = make_average(model, 0.9), torch.get_rng_state()
    for shadow in average.shadow_params:
        shadow.add_(0.1)
    copy = averaged_model(model, average, keep=True)
    assert torch.equal(torch.get_rng_state(), state)
    for (name, mean), shadow in zip(copy.named_parameters(), average.shadow_params, strict=True):
        assert torch.equal(mean, shadow) and mean.requires_grad == model.get_parameter(name).requires_grad
    assert copy.config.id2label == model.config.id2label


def test_a_checkpoint_of_another_base_is_refused():
    model, _ = adapted()
    other = deepcopy(model.state_dict())
    with keeping_base(model, "step-1"):
        model.load_state_dict(other)
    other["structure_in.weight"] += 1
    with (
        pytest.raises(UserError, match="step-1 adapts another model than the one that --init-from names now"),
        keeping_base(model, "step-1"),
    ):
        model.load_state_dict(other)


def test_parts_that_the_blocks_do_not_have_are_named():
    with pytest.raises(UserError, match="have no 'class_attention'; they have modulation, attention, feed_forward"):
        target_modules(tiny_pipeline().transformer, ["class_attention"], 2)


def test_a_rank_that_no_linear_has_is_refused():
    message = "lora_rank=33 must be at most 32, the rank that blocks.0.attention.qkv of this model can have"
    with pytest.raises(UserError, match=message):
        target_modules(tiny_pipeline().transformer, TARGETS, 33)
    assert target_modules(tiny_pipeline().transformer, TARGETS, 32)
