"""What stage two's training says."""

import os

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_models import tiny_vae

from generator import train as train_command

FLAGS = ["--max-videos", "8", "--batch-size", "4", "--log-every", "3", "--sample-every", "9", "--sample-steps", "1"]
MODEL = ["--model.hidden-size", "16", "--model.num-layers", "1", "--model.num-attention-heads", "2"]


def test_a_run_says_what_it_is_before_its_first_step(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_vae(num_frames=8, sample_size=32).save_pretrained("vae")
    command = ["--dataset", "shapes", "--autoencoder", "vae", "--output-dir", "run", "--precision", "fp32"]
    train_command.main([*command, "--max-steps", "4", *FLAGS, *MODEL])
    out, err = capsys.readouterr()
    lines = dict(line.split(maxsplit=1) for line in out.replace("held out", "held-out").splitlines() if "  " in line)
    assert lines["run"] == "run" and lines["data"].startswith("shapes, latents of 8 clips of 10 classes in ")
    assert lines["autoencoder"].startswith("vae (") and lines["loss"].startswith("mean squared error of x_0")
    assert lines["steps"].startswith("4 with 4 clips each") and "structure and" in lines["model"]
    assert "FLOP a step" in lines["cost"] and "fp32" in lines["device"]
    assert "4/4" in err and "loss=" in err
    records = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    records.Reload()
    assert "max_videos: 8" in records.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    machine = records.Tensors("machine/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"{torch.get_num_threads()} of {os.cpu_count()} cores, torch {torch.__version__}" in machine


def test_a_dry_run_takes_a_step_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_vae(num_frames=8, sample_size=32).save_pretrained("vae")
    before = sorted(tmp_path.rglob("*"))
    command = ["--dataset", "shapes", "--autoencoder", "vae", "--precision", "fp32", "--dry-run", *FLAGS, *MODEL]
    train_command.main([*command, "--validate-every", "1"])
    out = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert "the latents would lie in outputs/latents/shapes-" in out and "one step" in out and "loss_dynamics " in out
    assert "weights" in out and "not measured on cpu" in out and "FLOP a step" in out
