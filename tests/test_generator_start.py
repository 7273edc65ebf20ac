"""Starting a run of stage two from a trained model: classes by name, scales, what is refused, and resuming."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import NAMES, max_difference, noise_latents, tiny_pipeline, tiny_vae
from video_files import make_video

from autoencoder.checkpoint import fingerprint, load_autoencoder
from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.common.run_folder import RunFolder
from autoencoder.data.shapes import CLASS_NAMES
from generator import VidTwinDiT, train
from generator.config import ObjectiveConfig, TrainConfig
from generator.dit import STATISTICS
from generator.start import CLASSES, Start, check_target, check_times
from pipelines import VidTwinDiffusionPipeline, pretrained
from pipelines.folders import model_folder

FOLDERS = ("cross_vertical", "hop", "circle_horizontal")  # two of the shipped pipeline's classes, and a new one
RUN = ["--dataset=folder", "--num-workers=0", "--sample-fps=8", "--precision=fp32", "--objective.kind=flow"]
RUN += ["--batch-size=2", "--sample-steps=1", "--sample-classes=1", "--checkpoint-every=1", "--second-ema-decay=0.5"]
FROZEN = ["--optimizer.name=adamw", "--optimizer.learning-rate=1e-12"]


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("films")
    for name in FOLDERS:
        for number in range(3):
            make_video(root / name / f"{number}.mp4", count=17 + number, fps=8)
    return root


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("given")
    tiny_pipeline().save_pretrained(root)
    return root


def transformer(names: tuple[str, ...] = NAMES, **settings) -> VidTwinDiT:
    """As that of `tiny_pipeline`, with other weights and other statistics, unless settings say more."""
    config = dict(tiny_pipeline().transformer.config) | dict.fromkeys(STATISTICS)
    id2label = {str(label): name for label, name in enumerate(names)}
    config |= {"num_classes": len(names), "id2label": id2label} | settings
    torch.manual_seed(1)
    return VidTwinDiT(**{name: value for name, value in config.items() if not name.startswith("_")})


def identity(pipeline: Path) -> str:
    return fingerprint(load_autoencoder(pipeline / "vae", "cpu"))


def start_from(model: VidTwinDiT, folder: Path, autoencoder: str, init_missing: bool = False) -> None:
    Start(folder, autoencoder, init_missing).give_to(model)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return VidTwinDiT.from_pretrained(path).state_dict()


def test_the_same_classes_in_another_order_keep_their_rows(given, capsys):
    model, known = transformer(NAMES[::-1]), weights_of(given / "transformer")
    start_from(model, given / "transformer", identity(given))
    taken = model.state_dict()
    assert torch.equal(taken[CLASSES], known[CLASSES][[2, 1, 0, 3]])
    assert all(torch.equal(taken[name], known[name]) for name in known.keys() - {CLASSES})
    assert model.config.structure_mean == [0.1, -0.2] and model.config.dynamics_std is None
    other = noise_latents(tiny_pipeline(), 1)
    assert max_difference(model.normalize(other), tiny_pipeline().transformer.normalize(other)) == 0
    assert "all fits" in capsys.readouterr().out


def test_new_classes_begin_anew_only_where_that_is_asked_for(given, capsys):
    names = ("Square Left", "Hop", "Circle Left", "Skip")
    model = transformer(names)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(UserError, match=r"does not fit this run: 2 of 4 classes, Hop, Skip\. Let .* by --init-missing"):
        start_from(model, given / "transformer", identity(given))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert model.config.structure_mean is None

    start_from(model, given / "transformer", identity(given), init_missing=True)
    rows, known = model.state_dict()[CLASSES], weights_of(given / "transformer")[CLASSES]
    assert torch.equal(rows[[0, 2, 4]], known[[2, 0, 3]]), "by name, and the null class"
    assert torch.equal(rows[[1, 3]], before[CLASSES][[1, 3]])
    assert "begins anew where that does not fit: 2 of 4 classes, Hop, Skip" in capsys.readouterr().out


def test_other_settings_are_named_with_the_right_ones(given):
    model = transformer(num_layers=3, structure_patch_size=(1, 1, 1), norm="rms_norm")
    with pytest.raises(UserError) as caught:
        start_from(model, given / "transformer", identity(given))
    right = "--model.structure-patch-size [2,1,1] --model.num-layers 2 --model.norm layer_norm"
    assert f"Give {right}, or let what does not fit" in str(caught.value)
    start_from(model, given / "transformer", identity(given), init_missing=True)
    known, taken = weights_of(given / "transformer"), model.state_dict()
    assert torch.equal(taken["blocks.1.modulation.weight"], known["blocks.1.modulation.weight"])
    assert not taken["blocks.2.modulation.weight"].any() and taken["structure_in.weight"].shape[1] == 2


def test_latents_of_another_autoencoder_have_their_own_statistics(given):
    model = transformer(structure_mean=[7.0, 8.0])
    with pytest.raises(UserError, match=r"the latents, of autoencoder \w{12} there, another auto here"):
        start_from(model, given / "transformer", "another autoencoder")
    start_from(model, given / "transformer", "another autoencoder", init_missing=True)
    assert model.config.structure_mean == [7.0, 8.0]
    known = weights_of(given / "transformer")
    assert all(torch.equal(weight, known[name]) for name, weight in model.state_dict().items())


def test_a_transformer_without_its_autoencoder_says_so(given, tmp_path):
    VidTwinDiT.from_pretrained(given / "transformer").save_pretrained(tmp_path / "alone")
    with pytest.raises(UserError, match="the latents, of which autoencoder is not known without .*vae"):
        start_from(transformer(), tmp_path / "alone", identity(given))


def test_another_target_is_refused_whatever_may_begin_anew(given):
    with pytest.raises(UserError, match="predicts 'flow'.*'sample'.*give --objective.kind flow"):
        start_from(transformer(prediction_type="sample"), given / "transformer", identity(given), init_missing=True)


def test_a_model_is_found_in_a_run_a_pipeline_a_folder_and_by_name(given, tmp_path):
    run = RunFolder(tmp_path / "run")
    tiny_pipeline().save_pretrained(run.pipeline)
    assert model_folder(run.path, "transformer") == run.pipeline / "transformer"
    assert model_folder(given, "vae") == model_folder(given / "vae", "vae") == given / "vae"
    assert model_folder("shapes", "transformer") == pretrained("shapes") / "transformer"
    with pytest.raises(
        MissingFileError, match="init_from=nothing: there is no VidTwinDiT: .*name of a shipped.*shapes"
    ):
        model_folder("nothing", "transformer")
    with pytest.raises(MissingFileError, match="there is no AutoencoderVidTwin"):
        model_folder(given / "transformer", "vae")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/config.yaml").write_text("{}")
    with pytest.raises(MissingFileError, match="a run that left none: .*has to end first, by --resume"):
        model_folder(tmp_path / "begun", "transformer")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is damaged"):
        model_folder(tmp_path, "vae")


def test_the_shipped_pipeline_starts_a_run_on_other_classes(films, tmp_path, monkeypatch, capsys):
    """With its settings, its autoencoder and its scale, which no flag repeats; another target is refused at once."""
    monkeypatch.chdir(tmp_path)
    flags = [*RUN, *FROZEN, f"--data-root={films}", "--init-from=shapes", "--output-dir=run", "--max-steps=1"]
    with pytest.raises(UserError, match="predicts 'flow'"):
        train.parse([*flags, "--objective.kind=sample"])
    with pytest.raises(UserError, match="init_from=.*shapes.*: 1 of 3 classes, hop. Let"):
        train.main(flags)
    train.main([*flags, "--init-missing"])
    out = capsys.readouterr().out
    assert "begins anew where that does not fit: 1 of 3 classes, hop" in out and "shapes/vae" in out

    shipped, made = pretrained("shapes"), Path("run/pipeline")
    known, taken = weights_of(shipped / "transformer"), weights_of(made / "transformer")
    assert identity(made) == identity(shipped)
    new = VidTwinDiT.load_config(made / "transformer")
    for name in known.keys() - {CLASSES}:
        torch.testing.assert_close(taken[name], known[name], rtol=0, atol=1e-9)
    labels = {name: int(label) for label, name in new["id2label"].items()}
    for name in ("cross_vertical", "circle_horizontal"):
        torch.testing.assert_close(
            taken[CLASSES][labels[name]], known[CLASSES][CLASS_NAMES.index(name)], rtol=0, atol=1e-9
        )
    old = VidTwinDiT.load_config(shipped / "transformer")
    assert {name: new[name] for name in STATISTICS} == {name: old[name] for name in STATISTICS}
    assert not torch.isclose(taken[CLASSES][labels["hop"]], known[CLASSES], atol=1e-3).all(dim=1).any()

    with pytest.raises(UserError, match="init_from=elsewhere, but shapes there"):
        train.parse(["--output-dir=run", "--resume", "--init-from=elsewhere"])


REFUSED = {
    "1 of 2 classes, diamond_vertical. Let": ["--classes=circle_vertical,diamond_vertical"],
    "model.num_layers=2 there. Give --model.num-layers 2, or let": ["--model.num-layers=3"],
    r"the latents, of autoencoder \w{12} there, \w{12} here. Let": ["--autoencoder=other"],
    "model.num_layers=2 there. LoRA adapts a model as it is: give --model.num-layers 2$": [
        "--lora-rank=2",
        "--model.num-layers=3",
    ],
    "lora_rank=64 must be at most 32, the rank that blocks.0.attention.qkv": ["--lora-rank=64"],
    "the blocks of this model have no 'embedding'": ["--lora-rank=2", "--lora-targets=[embedding]"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_encoded(tmp_path, monkeypatch, message):
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    tiny_pipeline(names=CLASS_NAMES, sample_size=32, independent_times=True).save_pretrained("base")
    tiny_vae(sample_size=32).save_pretrained("other")
    flags = ["--dataset=shapes", "--max-videos=2", "--init-from=base", "--companions=false", "--objective.kind=flow"]
    with pytest.raises(UserError, match=message):
        train.main([*flags, "--output-dir=run", *REFUSED[message]])
    assert not Path("outputs").exists() and not Path("run").exists()


def test_a_class_that_came_to_a_folder_is_noticed_before_it_is_encoded(films, tmp_path, monkeypatch):
    """Though the latents of the others are there."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(films, "films")
    shutil.rmtree("films/hop")
    flags = [*RUN, *FROZEN, "--data-root=films", "--init-from=shapes", "--max-steps=1"]
    train.main([*flags, "--output-dir=run"])
    shutil.copytree(films / "hop", "films/hop")
    before = {path: path.read_bytes() for path in Path("outputs").rglob("*.safetensors")}
    with pytest.raises(UserError, match="1 of 3 classes, hop. Let"):
        train.main([*flags, "--output-dir=again"])
    assert {path: path.read_bytes() for path in Path("outputs").rglob("*.safetensors")} == before
    shutil.rmtree("films")  # the latents tell the classes then
    train.main([*flags, "--output-dir=again"])


def test_a_config_of_an_earlier_version_lacks_what_was_the_default(given, tmp_path):
    shutil.copytree(given, tmp_path / "old")
    config = tmp_path / "old/transformer/config.json"
    lacking = {"prediction_type", "independent_times", "frame_times"}
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({name: value for name, value in settings.items() if name not in lacking}))
    check_target(config.parent, "flow")
    with pytest.raises(UserError, match="trained without independent_times"):
        check_times(config.parent, ObjectiveConfig(independent_times=True))


def test_a_run_that_started_from_another_resumes_with_the_same_bits(films, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    VidTwinDiffusionPipeline.from_pretrained(pretrained("shapes")).save_pretrained("first")
    flags = [*RUN, f"--data-root={films}", "--init-from=first", "--autoencoder=first/vae", "--init-missing"]
    flags += ["--keep-checkpoints=9", "--max-steps=4", "--optimizer.learning-rate=0.001"]
    train.main([*flags, "--output-dir=run"])
    run = RunFolder("run")
    whole = torch.load(run.checkpoint_path(4), weights_only=True)
    statistics = VidTwinDiT.load_config(run.pipeline / "transformer")["structure_mean"]
    for step in (3, 4):
        run.checkpoint_path(step).unlink()
    Path("first/transformer").rename("elsewhere")
    train.main([*flags, "--output-dir=run", "--resume"])
    resumed = torch.load(run.checkpoint_path(4), weights_only=True)
    for part in ("model", "averages", "statistics"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    torch.testing.assert_close(resumed["optimizer"]["state"], whole["optimizer"]["state"], rtol=0, atol=0)
    known = VidTwinDiT.load_config(pretrained("shapes") / "transformer")
    assert VidTwinDiT.load_config(run.pipeline / "transformer")["structure_mean"] == statistics
    assert statistics == known["structure_mean"]


def test_what_may_begin_anew_needs_a_model_to_start_from():
    with pytest.raises(UserError, match="give --init-from, too"):
        TrainConfig(init_missing=True)
