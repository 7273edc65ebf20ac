"""What stage one's training says."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autoencoder import train as train_command
from autoencoder.common.errors import UserError
from autoencoder.data import Shapes
from autoencoder.data.folder import VideoFolder
from autoencoder.training.config import ExchangeConfig
from autoencoder.training.report import describe_exchange

TINY = """
dataset: shapes
max_steps: 4
batch_size: 2
log_every: 2
validate_every: 2
num_held_out: 2
gan: true
gan_start: 2
model: {num_frames: 8, sample_size: 32, patch_size: 8, hidden_size: 16, num_layers: 1, num_attention_heads: 2,
  structure_queries: 2, structure_conv_channels: 4, qformer_hidden_size: 8, qformer_num_layers: 2,
  qformer_num_attention_heads: 2, qformer_intermediate_size: 8}
"""


def test_a_run_says_what_it_is_before_its_first_step(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    train_command.main(["--config", "tiny.yaml", "--output-dir", "run", "--precision", "fp32"])
    out, err = capsys.readouterr()
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["run"] == "run" and lines["data"].startswith("shapes, 20,000 clips of 10 classes")
    assert "GAN x 0.05 from step 2" in lines["loss"] and lines["steps"].startswith("4 with 2 clips each")
    assert "fp32" in lines["device"] and "parameters" in lines["model"] and "FLOP a step" in lines["cost"]
    assert "4/4" in err and "l1=" in err and "psnr=" in err and "v_num" not in err
    records = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    records.Reload()
    assert "gan_start: 2" in records.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()

    train_command.main(["--config", "tiny.yaml", "--output-dir", "run", "--resume", "--max-steps", "6"])
    assert "goes on after step 4" in capsys.readouterr().out


def test_a_dry_run_takes_a_step_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY.replace("gan_start: 2", "gan_start: 0"))
    train_command.main(["--config", "tiny.yaml", "--dry-run", "--ema-decay", "0.9", "--precision", "fp32"])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert [path.name for path in tmp_path.rglob("*")] == ["tiny.yaml"]
    assert lines["steps"].startswith("4 with 2 clips each") and "FLOP a step" in lines["cost"]
    assert "l1 " in lines["one"] and "discriminator_loss " in lines["one"] and "gradient_norm " in lines["one"]
    assert all(f"{part} " in lines["memory"] for part in ("weights", "gradients", "optimiser", "averages"))
    assert "not measured on cpu" in lines["memory"]


@pytest.mark.parametrize(
    "pattern, said",
    [
        (None, "; 5 of 5 videos have no other one of their content, and take a moment of their own)"),
        (r"person(\d)", "; 3 of 5 videos have no other one"),
        (r"person|other", "(in full from step 0)"),
    ],
)
def test_videos_without_a_companion_are_counted(tmp_path, pattern, said):
    for name in ("a/person1.mp4", "b/person1.mp4", "a/person2.mp4", "b/person3.mp4", "b/other.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    if pattern == r"person|other":
        (tmp_path / "a/other.mp4").touch()
    films = VideoFolder(tmp_path, 4, 32, val_share=0.0, content_pattern=pattern)
    assert said in describe_exchange(ExchangeConfig(share=0.5), films)
    assert "no other one" not in describe_exchange(ExchangeConfig(share=0.5, companion="clip"), films)
    assert "no other one" not in describe_exchange(ExchangeConfig(share=0.5), Shapes(4, 32, "train"))


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--dataset shapes --config base", "lpips_weight=0.05 needs the weights of VGG-16"),
        ("--dataset ucf101 --config base --lpips-weight 0", "UCF-101 is not complete in .*data/ucf101"),
        ("--dataset folder --data-root nowhere", "nowhere"),
    ],
)
def test_missing_data_and_weights_are_told_before_a_model_is_built(
    flags, message, tmp_path, monkeypatch, without_weights
):
    def build(**_):
        raise AssertionError("a model was built")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("autoencoder.vidtwin.AutoencoderVidTwin", build)
    with pytest.raises(UserError, match=message):
        train_command.main(flags.split())
    assert not list(tmp_path.iterdir())
