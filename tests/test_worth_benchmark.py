"""The benchmark of what latents are worth: what it runs, what it takes over, and its correlations."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_vae

from autoencoder.common.errors import UserError
from benchmarks import worth
from benchmarks.work import worth as work
from benchmarks.worth import WorthConfig


@pytest.fixture
def autoencoders(tmp_path) -> list[str]:
    """Three, which differ."""
    flags = []
    for number, name in enumerate("abc"):
        torch.manual_seed(number)
        tiny_vae().save_pretrained(tmp_path / name)
        flags.append(f"--checkpoint={name}={tmp_path / name}")
    return flags


@pytest.fixture
def ran(monkeypatch) -> list[tuple[str, list[str]]]:
    """Modules and flags of the commands, which write results that follow from the autoencoder's name."""
    calls = []

    def start(module: str, flags: list[str]) -> None:
        calls.append((module, flags))
        folder = Path(flags[-1])
        (folder / "pipeline").mkdir(parents=True)
        (folder / "pipeline" / "model_index.json").write_text("{}")
        goodness = "abc".index(folder.parent.name)
        between = {kind: {"distance": 300 - 50 * goodness, "oracle": 0.5} for kind in ("moments", "clips")}
        report = {"metrics": {"psnr": [27.0, 25.0, 29.0][goodness]}, "not_measured": {}, "interpolated": between}
        report |= {"distance": {"name": "rFVD", "value": 10.0 * goodness}}
        report |= {"distances": {"FVD, I3D": {"samples": {"values": [900.0 - goodness]}}, "KVD, I3D": {}}}
        report |= {"class_shares": {"samples": {"both": {"mean": [0.1, 0.2, 0.9][goodness]}}}}
        (folder / "evaluation.json").write_text(json.dumps(report))

    monkeypatch.setattr(work, "start_command", start)
    return calls


def test_all_are_evaluated_trained_and_compared(autoencoders, ran, tmp_path, capsys):
    flags = [*autoencoders, "--seeds", "2", "--num-samples", "7", "--output-dir", str(tmp_path / "out")]
    worth.main(flags)
    modules = ["autoencoder.evaluate", *2 * ["generator.train", "pipelines.evaluate"]]
    assert [module for module, _ in ran] == 3 * modules
    assert ran[0][1][:6] == ["--checkpoint", str(tmp_path / "a"), "--videos", "shapes", "--num-shapes", "100"]
    seeds = [flags[flags.index("--seed") + 1] for module, flags in ran if module == "generator.train"]
    assert seeds == 3 * ["0", "1"]
    results = json.loads((tmp_path / "out" / "worth.json").read_text())["results"]
    assert [row["fvd"] for row in results[:3]] == [[900.0] * 2, [899.0] * 2, [898.0] * 2]
    found = {(row["predictor"], row["outcome"]): row for row in results[3:]}
    assert found["moments", "fvd"]["pearson"] == pytest.approx(1) and found["rfvd", "fvd"]["spearman"] == -1
    assert found["clips", "oracle"]["spearman"] == 1 > found["clips", "oracle"]["pearson"] > 0.8
    assert found["moments_oracle", "fvd"]["pearson"] is None
    printed = capsys.readouterr().out
    assert "| FVD between two clips | +1.00, +1.00 |" in printed and "| the same for all, the same for all |" in printed

    count = len(ran)
    worth.main(flags)
    assert len(ran) == count, "all is there"
    worth.main([*flags, "--num-samples", "8"])
    assert [module for module, _ in ran[count:]] == 6 * ["pipelines.evaluate"]
    torch.manual_seed(9)
    tiny_vae().save_pretrained(tmp_path / "b")
    worth.main([*flags, "--num-samples", "8"])
    assert [module for module, _ in ran[count + 6 :]] == modules, "that autoencoder is another one now"


def test_an_autoencoder_that_is_not_there_is_told_before_any_work(autoencoders, ran, tmp_path):
    with pytest.raises(UserError, match="nowhere is no folder of an autoencoder"):
        worth.main([*autoencoders, f"--checkpoint=d={tmp_path / 'nowhere'}", "--output-dir", str(tmp_path / "out")])
    assert not ran


def test_ranks_of_equal_values_are_shared():
    assert work.ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]


def test_fewer_than_three_have_no_correlation():
    for given in (["a=one", "b=two"], ["a=one", "a=two", "b=three"], ["one", "two", "three"]):
        with pytest.raises(UserError, match="three autoencoders of different names"):
            WorthConfig(checkpoints=given)


def test_an_evaluation_without_i3d_is_an_error(autoencoders, ran, tmp_path, monkeypatch):
    start = work.start_command

    def without(module: str, flags: list[str]) -> None:
        start(module, flags)
        path = Path(flags[-1]) / "evaluation.json"
        report = json.loads(path.read_text())
        report |= {"distance": {"name": "rFVD", "value": None}, "not_measured": {"distance": "pip install it"}}
        path.write_text(json.dumps(report))

    monkeypatch.setattr(work, "start_command", without)
    with pytest.raises(UserError, match="rFVD is not measured: pip install it"):
        worth.main([*autoencoders, "--output-dir", str(tmp_path / "out")])
