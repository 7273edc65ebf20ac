"""Training LoRA by the command: what it leaves, resuming, replay, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from tiny_models import tiny_pipeline

from autoencoder.common.errors import UserError
from autoencoder.common.run_folder import RunFolder
from autoencoder.data.shapes import CLASS_NAMES
from autoencoder.latents import VidTwinLatents
from generator import VidTwinDiT, train
from generator.cache_reader import LatentCache
from generator.config import TrainConfig
from generator.lora import add_lora, as_the_base
from generator.objective import NoisyBatch
from generator.replay import JoinedCaches, replay_cache
from generator.trainer import _check_processes, flops_of_sample
from pipelines import VidTwinDiffusionPipeline
from pipelines.sample import main as sample

pytest.importorskip("peft")

NEW = ("diamond_horizontal", "diamond_vertical")
RUN = ["--dataset=shapes", "--classes=diamond_horizontal,diamond_vertical", "--max-videos=6", "--batch-size=4"]
RUN += ["--init-from=base", "--lora-rank=2", "--sample-steps=1", "--sample-classes=1", "--precision=fp32"]
RUN += [
    "--objective.kind=flow",
    "--companions=false",
    "--keep-checkpoints=9",
    "--checkpoint-every=1",
    "--num-workers=0",
]
RUN += ["--optimizer.learning-rate=0.01", "--max-steps=4"]


@pytest.fixture
def base(tmp_path, monkeypatch) -> VidTwinDiT:
    """The transformer of a pipeline of the ten classes, which lies in base/ of the current folder."""
    monkeypatch.chdir(tmp_path)
    pipe = tiny_pipeline(names=CLASS_NAMES, num_frames=4, sample_size=32, independent_times=True)
    pipe.save_pretrained("base")
    return pipe.transformer


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_leaves_lora_and_a_whole_pipeline_and_resumes_to_the_bit(base, optimizer, capsys):
    flags = [*RUN, f"--optimizer.name={optimizer}", "--lora-replay=5", "--output-dir=run"]
    train.main([*flags, "--second-ema-decay=0.5"])
    printed = capsys.readouterr().out
    assert "of them trained: LoRA of rank 2" in printed
    assert "latents of 11 clips, 5 of them own samples, of 12 classes" in printed
    run = RunFolder("run")
    whole = torch.load(run.checkpoint_path(4), weights_only=True)
    for name, weight in base.state_dict().items():
        kept = whole["model"].get(name, whole["model"].get(name.replace(".weight", ".base_layer.weight")))
        kept = whole["model"].get(name.replace(".bias", ".base_layer.bias")) if kept is None else kept
        if name != "class_embedding.weight":
            assert torch.equal(kept, weight), name
    rows = whole["model"]["class_embedding.token_adapter.base_layer.weight"]
    assert torch.equal(rows[[*range(10), 12]], base.class_embedding.weight), "the rows of the base"

    fused = VidTwinDiffusionPipeline.from_pretrained(run.pipeline)
    assert [fused.label(name) for name in NEW] == [10, 11]
    unfused = VidTwinDiffusionPipeline.from_pretrained("base")
    unfused.load_lora_weights(run.path / "lora")
    assert torch.equal(fused.transformer.class_embedding.weight[:10], base.class_embedding.weight[:10])
    for label in (0, 11):
        inputs = torch.randn(1, *base.layout.mask.shape), torch.tensor([500.0]), torch.tensor([label])
        difference = fused.transformer(*inputs).sample - unfused.transformer(*inputs).sample
        assert difference.abs().max() <= 1e-5
    assert (run.path / "lora-ema2").is_dir() and (run.path / "pipeline-ema2").is_dir()

    for step in (3, 4):
        run.checkpoint_path(step).unlink()
    train.main([*flags, "--second-ema-decay=0.5", "--resume"])
    resumed = torch.load(run.checkpoint_path(4), weights_only=True)
    for part in ("model", "averages"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    torch.testing.assert_close(resumed["optimizer"]["state"], whole["optimizer"]["state"], rtol=0, atol=0)


def test_a_run_whose_base_has_changed_is_not_resumed(base):
    train.main([*RUN, "--max-steps=1", "--output-dir=run"])
    with torch.no_grad():
        base.structure_in.bias += 1
    base.save_pretrained("base/transformer")
    with pytest.raises(UserError, match="adapts another model than the one that --init-from names now"):
        train.main([*RUN, "--max-steps=2", "--output-dir=run", "--resume"])


def test_a_resumption_with_another_base_does_not_stay_in_the_settings(base):
    train.main([*RUN, "--max-steps=1", "--output-dir=run"])
    shutil.copytree("base", "other")
    with torch.no_grad():
        base.structure_in.bias += 1
    base.save_pretrained("other/transformer")
    with pytest.raises(UserError, match="adapts another model than the one that --init-from names now"):
        train.main(["--init-from=other", "--max-steps=2", "--output-dir=run", "--resume"])
    train.main(["--max-steps=2", "--output-dir=run", "--resume"])


@pytest.mark.parametrize("damaged", ["index.json", "shard-00000.safetensors"])
def test_a_damaged_replay_is_named(base, damaged):
    flags = [*RUN, "--lora-replay=2", "--output-dir=run"]
    train.main([*flags, "--max-steps=1"])
    path = Path("run/replay", damaged)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=f"replay/{damaged} is damaged.* remove that one"):
        train.main([*flags, "--max-steps=2", "--resume"])
    shutil.rmtree("run/replay")
    train.main([*flags, "--max-steps=2", "--resume"])


def test_a_run_whose_base_was_moved_is_resumed(base, capsys):
    train.main([*RUN, "--max-steps=1", "--output-dir=run"])
    Path("base").rename("moved")
    flags = [*RUN, "--init-from=moved", "--autoencoder=moved/vae", "--max-steps=2", "--output-dir=run"]
    train.main([*flags, "--resume"])
    assert "resuming run from step 1" in capsys.readouterr().out and RunFolder("run").checkpoint_path(2).is_file()


def test_noise_levels_that_the_base_does_not_know_are_refused_at_once(base, tmp_path):
    flags = [*RUN, "--output-dir=run", "--objective.independent_times=true"]
    with pytest.raises(UserError, match="init_from=base/transformer: .* without history_share and frame_share, which"):
        train.main([*flags, "--objective.history_share=0.5"])
    base.register_to_config(independent_times=False)
    base.save_pretrained("base/transformer")
    with pytest.raises(UserError, match="trained without independent_times, which LoRA cannot add: leave that out"):
        train.main(flags)
    assert not (tmp_path / "run").exists()


def test_a_base_that_does_not_fit_is_not_to_begin_anew(base):
    message = r"LoRA adapts a model as it is: give --model.hidden-size 32$"
    with pytest.raises(UserError, match=message):
        train.main([*RUN, "--model.hidden_size=64", "--output-dir=run"])


def test_replay_leaves_the_held_out_loss_what_it_is(base):
    flags = [*RUN, "--classes=circle_horizontal,diamond_vertical", "--max-steps=1", "--validate-every=1"]
    flags += ["--val-videos=4", "--optimizer.learning-rate=1e-12"]
    losses = []
    for count in (0, 5):
        train.main([*flags, f"--lora-replay={count}", f"--output-dir=run{count}"])
        pipe = VidTwinDiffusionPipeline.from_pretrained(f"run{count}/pipeline")
        losses.append(pipe.config.training["metrics"]["held-out loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_the_base_is_read_once_before_the_first_step_and_once_to_be_fused(base, monkeypatch):
    read, load = [], VidTwinDiT.from_pretrained
    monkeypatch.setattr(VidTwinDiT, "from_pretrained", lambda *args, **options: read.append(args) or load(*args))
    flags = [*RUN, "--lora-replay=2", "--max-steps=1", "--output-dir=run"]
    train.main(flags)
    assert len(read) == 2
    monkeypatch.setattr("generator.replay.write_shard", None)  # a finished replay is not sampled again
    train.main([*flags, "--max-steps=2", "--resume"])
    assert len(read) == 4


def test_lora_computes_no_gradients_of_frozen_weights():
    model = tiny_pipeline().transformer
    whole = flops_of_sample(model, TrainConfig())
    lora = TrainConfig(lora_rank=2, init_from="base")
    assert 3 * flops_of_sample(model, lora) == 2 * whole
    assert flops_of_sample(model, replace(lora, lora_replay=3)) == whole


def test_the_new_classes_are_sampled_by_the_command_with_lora(base, tmp_path):
    train.main([*RUN, "--max-steps=1", "--output-dir=run"])
    common = ["--pipeline=base", "--class=diamond_vertical", "--num-inference-steps=1", "--out=samples"]
    sample([*common, "--lora=run/lora", "--lora-scale=0.5"])
    assert (tmp_path / "samples/diamond_vertical_0.mp4").is_file()
    with pytest.raises(UserError, match="lora_scale=0.5 scales LoRA weights: give their folder by --lora"):
        sample([*common, "--lora-scale=0.5"])


def test_rank_0_is_no_lora_to_the_bit(base):
    flags = [flag for flag in RUN if "lora" not in flag and "classes" not in flag.split("=")[0]]
    train.main([*flags, "--max-steps=2", "--output-dir=plain"])
    train.main([*flags, "--max-steps=2", "--output-dir=zero", "--lora-rank=0", "--lora-alpha=3"])
    plain, zero = (torch.load(RunFolder(name).checkpoint_path(2), weights_only=True) for name in ("plain", "zero"))
    torch.testing.assert_close(zero["model"], plain["model"], rtol=0, atol=0)
    assert zero["model"].keys() == base.state_dict().keys() and not RunFolder("zero").path.joinpath("lora").exists()


def test_a_dry_run_counts_what_is_trained(base, tmp_path, capsys):
    train.main([*RUN, "--dry-run", "--output-dir=run"])
    width, hidden = 32, base.blocks[0].feed_forward[0].out_features
    linears = [(width, 3 * width), (width, width), (width, hidden), (hidden, width)]
    count = 2 * sum(2 * (a + b) for a, b in linears) + 2 * width  # two blocks, rank 2; and two rows
    assert f"{count:,} of them trained: LoRA of rank 2" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lora_rank": -1}, "lora_rank must be at least 0, got -1"),
        ({"lora_rank": 4}, "lora_rank=4 adapts a trained model: give one by --init-from"),
        ({"lora_rank": 4, "init_from": "a", "init_missing": True}, "init_missing would change the model"),
        ({"lora_rank": 4, "init_from": "a", "lora_alpha": 0.0}, "lora_alpha must be positive or null, got 0.0"),
        ({"lora_rank": 4, "init_from": "a", "lora_targets": []}, "lora_targets must be different parts"),
        ({"lora_replay": 4}, "lora_replay=4 is for LoRA: give a --lora-rank, too"),
    ],
)
def test_settings_that_make_no_lora(settings, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**settings)


def test_sharded_training_is_refused(monkeypatch):
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(type(accelerator), "is_fsdp2", True)
    config = TrainConfig(lora_rank=2, init_from="base")
    with pytest.raises(UserError, match="lora_rank=2 freezes the model, .*: launch without FSDP"):
        _check_processes(config, accelerator)
    with pytest.raises(UserError, match="muon"):
        _check_processes(replace(config, lora_rank=0, optimizer=replace(config.optimizer, name="muon")), accelerator)


def test_what_is_not_new_is_to_be_predicted_as_without_lora():
    before, model = tiny_pipeline().transformer, tiny_pipeline().transformer
    add_lora(model, 2, None, ("attention", "feed_forward"), ("new",))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.randn(4, *model.layout.mask.shape)
    labels = torch.tensor([0, 3, 2, 4])  # 3 is the new class, 4 the null class
    batch = NoisyBatch(tokens, torch.full((4,), 300.0), labels, torch.randn_like(tokens), torch.ones(4, 1))
    target = as_the_base(model, batch).target
    expected = before(tokens, batch.timestep, torch.tensor([0, 0, 2, 3])).sample
    assert torch.equal(target[[0, 2, 3]], expected[[0, 2, 3]]) and torch.equal(target[1], batch.target[1])
    assert not torch.equal(model(tokens, batch.timestep, labels).sample[0], target[0]), "the adapters are on again"
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if ".lora_" in name)


def test_replayed_samples_are_kept_and_joined_by_class_name(tmp_path):
    calls = []

    def draw(labels, seeds):
        calls.append((list(labels), list(seeds)))
        values = torch.tensor(list(seeds)).float().view(-1, 1, 1, 1, 1)
        return VidTwinLatents(values.expand(-1, 1, 1, 2, 2), values[..., 0].expand(-1, 1, 2, 4))

    known = {"steps": 3}
    first = replay_cache(tmp_path / "a", draw, ["x", "y", "z"], 20, 100, known)
    assert calls[0] == ([number % 3 for number in range(16)], list(range(100, 116))) and len(calls) == 2
    again = replay_cache(tmp_path / "a", draw, ["x", "y", "z"], 20, 100, known)
    assert len(calls) == 2 and torch.equal(again.labels, first.labels)
    with pytest.raises(UserError, match="steps=3 there and 4 here"):
        replay_cache(tmp_path / "a", draw, ["x", "y", "z"], 20, 100, {"steps": 4})
    second = replay_cache(tmp_path / "b", draw, ["w", "z"], 2, 500, known)
    joined = JoinedCaches(second, first)
    assert joined.class_names == ("w", "z", "x", "y") and len(joined) == 22 and isinstance(first, LatentCache)
    assert joined.labels[:5].tolist() == [0, 1, 2, 3, 1]
    assert joined.latents([1, 2, 21]).structure[:, 0, 0, 0, 0].tolist() == [501.0, 100.0, 119.0]
