"""A run is resumed with the settings that it began with; what leaves it as it is may change, and is said."""

from dataclasses import fields
from pathlib import Path

import pytest
import test_autoencoder_train
import test_generator_train
import yaml
from test_latent_cache import make_autoencoder

from autoencoder import train as first_stage
from autoencoder.common.errors import UserError
from autoencoder.common.resuming import check_resumed
from autoencoder.common.run import LAST_AUTOENCODER, RunFolder, write_pointer
from autoencoder.training.config import TrainConfig as FirstConfig
from generator import train as second_stage
from generator.config import TrainConfig as SecondConfig

SAVED = {"max_steps": 20, "batch_size": 8, "log_every": 10, "data_root": "data/mine", "precision": "fp32"}
SAVED |= {"optimizer": {"learning_rate": 0.001, "schedule": "constant"}, "model": {"sizes": [1, 2]}}
DEFAULTS = SAVED | {"data_root": None, "crop": "random", "optimizer": {"learning_rate": 0.1, "schedule": "cosine"}}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    folder.config.write_text(yaml.safe_dump(SAVED))
    folder.checkpoint_path(12).touch()
    return folder


def resume(folder: RunFolder, **changes) -> str:
    return check_resumed(
        folder, yaml.safe_dump(SAVED | {"crop": "random"} | changes), yaml.safe_dump(DEFAULTS), {"log_every"}
    )


def test_nothing_changed(folder):
    assert resume(folder) == f"resuming {folder.path} from step 12"
    folder.checkpoint_path(12).unlink()
    assert resume(folder) == f"resuming {folder.path} from the start, for it holds no checkpoint yet"


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"batch_size": 4}, "batch_size=4, but 8 there"),
        ({"max_steps": 11}, "max_steps=11, but 12 steps are done"),
        ({"data_root": None}, "data_root=null, but data/mine there"),
        ({"crop": "center"}, "crop=center, but random there"),  # younger than the saved config: the default stands
        ({"model": {"sizes": [1, 3]}}, r"model.sizes=\[1, 3\], but \[1, 2\] there"),
        (
            {"precision": "bf16", "log_every": 1, "optimizer": SAVED["optimizer"] | {"learning_rate": 1.0}},
            "optimizer.learning_rate=1.0, but 0.001 there; precision=bf16, but fp32 there",
        ),
    ],
)
def test_what_changes_the_run_is_one_line_with_both_values(folder, changes, expected):
    with pytest.raises(UserError, match=f"cannot be resumed .*: {expected}. Leave that out.*--output-dir") as error:
        resume(folder, **changes)
    assert "\n" not in str(error.value) and "log_every" not in str(error.value)


def test_what_may_change_is_noted(folder):
    line = resume(folder, log_every=5, max_steps=12)
    assert line == f"resuming {folder.path} from step 12 with log_every=5 (was 10), max_steps=12 (was 20)"


def test_the_same_folder_may_be_spelled_otherwise(folder, monkeypatch):
    monkeypatch.chdir(folder.path)
    assert resume(folder, data_root=str(Path("data/mine").resolve())).endswith("from step 12")
    with pytest.raises(UserError, match="data_root=other"):
        resume(folder, data_root="other")


def test_more_steps_say_what_becomes_of_a_cosine(folder):
    text = yaml.safe_dump(SAVED | {"max_steps": 40, "optimizer": {"schedule": "cosine", "learning_rate": 0.001}})
    folder.config.write_text(text.replace("40", "20"))
    line = check_resumed(folder, text, yaml.safe_dump(DEFAULTS), ())
    assert line.endswith(
        "max_steps=40 (was 20): from here on the learning rate follows the cosine that ends at step 40"
    )


@pytest.mark.parametrize("config", [FirstConfig, SecondConfig])
def test_what_may_change_are_settings(config):
    assert config.MAY_CHANGE.issubset(field.name for field in fields(config))
    assert not config.MAY_CHANGE & {"seed", "batch_size", "max_steps", "precision", "dataset", "optimizer", "ema_decay"}


def refused(main, flags: list[str], folder: Path, *names: str) -> None:
    """That a resumed run is refused by the names of settings, and nothing of it touched."""

    def content() -> dict[Path, float]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    before = content()
    with pytest.raises(UserError) as error:
        main([*flags, "--resume"])
    assert all(name in str(error.value) for name in names), error.value
    assert content() == before


def test_stage_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder, short = tmp_path / "run", {"checkpoint_every": 2, "validate_every": 9}
    flags = test_autoencoder_train.arguments(folder, max_steps=2, **short)
    first_stage.main(flags)
    refused(first_stage.main, [*flags, "--model.hidden_size=32", "--seed=1"], folder, "model.hidden_size=32, but 16")
    refused(first_stage.main, [*flags, "--max-steps=1"], folder, "max_steps=1, but 2 steps are done")
    refused(first_stage.main, [*flags, "--kl-weight=2", "--dataset=ucf101"], folder, "kl_weight=2", "dataset=ucf101")
    capsys.readouterr()
    first_stage.main(["--output-dir", str(folder), "--resume", "--max-steps=3", "--num-workers=1", "--num-held-out=1"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("resuming"))
    assert line.startswith(f"resuming {folder} from step 2 with ") and "resume=" not in line
    assert {"num_workers=1 (was 0)", "num_held_out=1 (was 3)"} < set(line.partition(" with ")[2].split(", "))
    assert "max_steps=3 (was 2)" in line
    assert RunFolder(folder).newest_checkpoint()[1] == 3
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert (saved["max_steps"], saved["num_workers"]) == (3, 1)


def test_configs_of_earlier_versions_are_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    flags = test_autoencoder_train.arguments(folder)
    config, _, _, text = first_stage.parse(flags)
    old = yaml.safe_load(text) | {"accumulate": 2}
    del old["micro_batch_size"], old["held_out_root"], old["optimizer"]["max_grad_norm"]
    (folder / "config.yaml").write_text(yaml.safe_dump(old))
    resumed, *_ = first_stage.parse(["--output-dir", str(folder), "--resume"])
    assert (resumed.max_steps, resumed.optimizer) == (config.max_steps, config.optimizer)


def test_null_is_kept_where_the_default_is_a_value(tmp_path):
    flags = ["--output-dir", str(tmp_path / "run")]
    _, _, folder, text = first_stage.parse([*flags, "--sample-fps=null"])
    with folder.held(text, resume=False):
        pass
    assert first_stage.parse([*flags, "--resume"])[0].sample_fps is None
    with pytest.raises(UserError, match="sample_fps=4.0, but null there"):
        first_stage.parse([*flags, "--resume", "--sample-fps=4"])


def test_stage_two(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("autoencoder", "copy", "other")):
        make_autoencoder(seed=number // 2).save_pretrained(name)
    write_pointer(LAST_AUTOENCODER, "autoencoder")
    folder, short = tmp_path / "run", {"max_videos": 20, "sample_every": 9, "val_videos": 20}
    flags = test_generator_train.arguments(folder, max_steps=2, **short)
    second_stage.main(flags)
    refused(second_stage.main, [*flags, "--batch-size=4", "--flip"], folder, "batch_size=4, but 8", "flip=true, but")
    refused(second_stage.main, [*flags, "--objective.kind=flow"], folder, "objective.kind=flow, but")
    refused(second_stage.main, [*flags, "--autoencoder=other"], folder, "autoencoder=other, but")
    capsys.readouterr()
    second_stage.main([*flags, "--resume", "--autoencoder=copy", "--max-steps=3", "--sample-every=2"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("resuming"))
    assert (
        line.startswith(f"resuming {folder} from step 2 with max_steps=3 (was 2)") and "sample_every=2 (was 9)" in line
    )
    assert RunFolder(folder).newest_checkpoint()[1] == 3
