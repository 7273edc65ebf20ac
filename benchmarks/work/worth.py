"""The work of `python -m benchmarks.worth`."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np

from autoencoder.checkpoint import fingerprint, load_autoencoder
from autoencoder.common.commands import start_command
from autoencoder.common.device import resolve_device
from autoencoder.common.errors import UserError
from autoencoder.common.files import atomic_path
from benchmarks.report import environment, write_json
from benchmarks.worth import WorthConfig

# Figure -> its title, and whether more of it is better.
PREDICTORS = {
    "psnr": ("PSNR, dB", True),
    "rfvd": ("rFVD", False),
    "moments": ("FVD between two moments", False),
    "clips": ("FVD between two clips", False),
    "moments_oracle": ("oracle, two moments", True),
    "clips_oracle": ("oracle, two clips", True),
}
OUTCOMES = {"fvd": ("FVD of samples", False), "oracle": ("oracle of samples", True)}


@dataclass(frozen=True)
class Row:
    """What was measured of an autoencoder.

    Attributes:
        name: as given.
        figures: by key of `PREDICTORS`.
        fvd, oracle: of the samples of every training on its latents: distance from real clips, and share in which shape
            and motion are those of the class.
    """

    name: str
    figures: dict[str, float]
    fvd: list[float]
    oracle: list[float]

    def outcome(self, name: str) -> float:
        """Mean over the trainings of a key of `OUTCOMES`."""
        return mean(getattr(self, name))


@dataclass(frozen=True)
class Correlation:
    """How a figure goes with what samples show; both turned so that more is better.

    Attributes:
        predictor, outcome: keys of `PREDICTORS` and `OUTCOMES`.
        pearson, spearman: over the autoencoders; None where a figure is the same for all.
    """

    predictor: str
    outcome: str
    pearson: float | None
    spearman: float | None


def evaluated(config: WorthConfig, name: str, checkpoint: str) -> dict[str, float]:
    """The figures of an autoencoder's own evaluation."""
    folder = config.output_dir / name / "evaluation"
    flags = ["--checkpoint", checkpoint, "--videos", "shapes", "--num-shapes", str(config.num_shapes)]
    report = _kept(folder, "evaluation.json", "autoencoder.evaluate", [*flags, "--lpips", "none"], checkpoint)
    if report["distance"]["value"] is None:
        raise UserError(f"rFVD is not measured: {report['not_measured'].get('distance', 'it was left out')}")
    between = report["interpolated"]
    figures = {"psnr": report["metrics"]["psnr"], "rfvd": report["distance"]["value"]}
    figures |= {kind: between[kind]["distance"] for kind in ("moments", "clips")}
    return figures | {f"{kind}_oracle": between[kind]["oracle"] for kind in ("moments", "clips")}


def sampled(config: WorthConfig, name: str, checkpoint: str, seed: int) -> tuple[float, float]:
    """FVD and the oracle's share of the samples of one training on an autoencoder's latents."""
    folder = config.output_dir / name
    data = ["--dataset", "shapes", "--config", config.preset, "--max-videos", str(config.max_videos)]
    data += ["--autoencoder", checkpoint, "--latent-cache", str(folder / "latents"), "--seed", str(seed)]
    for flag in ("--max-steps", "--validate-every", "--checkpoint-every", "--sample-every"):
        data += [flag, str(config.max_steps)]
    training = folder / f"generator-{seed}"
    _kept(training, "pipeline/model_index.json", "generator.train", data, checkpoint)
    flags = ["--pipeline", str(training / "pipeline"), "--dataset", "shapes", "--num-samples", str(config.num_samples)]
    flags += ["--seeds", "1", "--num-inference-steps", str(config.num_inference_steps)]
    flags += ["--guidance-scale", str(config.guidance_scale), "--keep-samples", "false"]
    report = _kept(folder / f"samples-{seed}", "evaluation.json", "pipelines.evaluate", flags, checkpoint)
    (fvd,) = (found["samples"]["values"] for title, found in report["distances"].items() if title.startswith("FVD"))
    return fvd[0], report["class_shares"]["samples"]["both"]["mean"]


def _kept(folder: Path, result: str, module: str, flags: Sequence[str], checkpoint: str) -> dict:
    """The result of a command, run into a folder unless it is there, made with the same flags and autoencoder."""
    made_with = {"flags": list(flags), "autoencoder": fingerprint(load_autoencoder(checkpoint, "cpu"))}
    note = folder / "made_with.json"
    if not note.is_file() or json.loads(note.read_text()) != made_with:
        shutil.rmtree(folder, ignore_errors=True)
        start_command(module, [*flags, "--output-dir", str(folder)])
        with atomic_path(note) as temporary:
            temporary.write_text(json.dumps(made_with, indent=2) + "\n")
    return json.loads((folder / result).read_text())


def correlations(rows: Sequence[Row]) -> list[Correlation]:
    """Of every predictor with every outcome."""
    found = []
    for outcome, (_, more_is_better) in OUTCOMES.items():
        results = np.array([row.outcome(outcome) for row in rows]) * (1 if more_is_better else -1)
        for predictor, (_, better) in PREDICTORS.items():
            values = np.array([row.figures[predictor] for row in rows]) * (1 if better else -1)
            pair = [pearson(*pair) for pair in ((values, results), (ranks(values), ranks(results)))]
            found.append(Correlation(predictor, outcome, *pair))
    return found


def pearson(one: np.ndarray, other: np.ndarray) -> float | None:
    """Pearson's correlation; None where one of the two does not vary."""
    return None if min(one.std(), other.std()) == 0 else float(np.corrcoef(one, other)[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 on; equal values share the mean of theirs."""
    below, equal = (values[:, None] > values).sum(axis=1), (values[:, None] == values).sum(axis=1)
    return below + (equal - 1) / 2


def table(rows: Sequence[Row], found: Sequence[Correlation]) -> str:
    """Both as tables in Markdown."""
    heads = [title for title, _ in (*PREDICTORS.values(), *OUTCOMES.values())]
    lines = [f"| autoencoder | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        cells = [_cell(key, value) for key, value in row.figures.items()]
        cells += [" ".join(_cell(key, value) for value in getattr(row, key)) for key in OUTCOMES]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    names = [f"{title}: Pearson, Spearman" for title, _ in OUTCOMES.values()]
    lines += ["", f"| correlation with | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for predictor, (title, _) in PREDICTORS.items():
        mine = [one for one in found if one.predictor == predictor]
        cells = [f"{_number(one.pearson)}, {_number(one.spearman)}" for one in mine]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(key: str, value: float) -> str:
    return f"{value:.1%}" if key.endswith("oracle") else f"{value:.2f}" if key == "psnr" else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "the same for all" if value is None else f"{value:+.2f}"


def execute(config: WorthConfig) -> None:
    """Evaluate, train and sample, print the tables and write them."""
    rows, named = [], [text.partition("=")[::2] for text in config.checkpoints]
    for _, checkpoint in named:
        load_autoencoder(checkpoint, "cpu")  # one that is not there is told before hours of work on the others
    for name, checkpoint in named:
        figures = evaluated(config, name, checkpoint)
        found = [sampled(config, name, checkpoint, seed) for seed in range(config.seeds)]
        rows.append(Row(name, figures, *(list(column) for column in zip(*found, strict=True))))
    related = correlations(rows)
    print(f"\n{table(rows, related)}")
    about = environment(resolve_device("auto")) | {"num_shapes": config.num_shapes, "max_steps": config.max_steps}
    about |= {"preset": config.preset, "max_videos": config.max_videos, "num_samples": config.num_samples}
    write_json(config.output_dir / "worth.json", "worth", about, [*rows, *related])
    print(f"\nwrote {config.output_dir / 'worth.json'}")
