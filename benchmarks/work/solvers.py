"""The work of `python -m benchmarks.solvers`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common.device import resolve_device
from autoencoder.common.plots import pyplot, save_figure
from benchmarks.report import environment, write_json
from benchmarks.solvers import SolversConfig
from generator.config import FLOW_KINDS
from pipelines.checkpoint import load_pipeline
from pipelines.evaluation.shares import oracle_share
from pipelines.schedulers import Solver, convert_scheduler

DDPM_SOLVERS = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
)
FLOW_SOLVERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "UniPCMultistepScheduler")


@dataclass(frozen=True)
class SolverResult:
    """One scheduler with one number of steps.

    Attributes:
        pipeline, prediction_type, scheduler, steps: what was sampled.
        calls: the transformer's calls; a guided step counts once.
        shape, motion, both: shares of the samples that the oracle confirms.
    """

    pipeline: str
    prediction_type: str
    scheduler: str
    steps: int
    calls: int
    shape: float
    motion: float
    both: float


def measure(folder: str, config: SolversConfig) -> list[SolverResult]:
    """Sample a pipeline with all schedulers and numbers of steps."""
    pipe = load_pipeline(folder)
    kind, own = pipe.transformer.config.prediction_type, pipe.scheduler.config
    results = []
    for name in FLOW_SOLVERS if kind in FLOW_KINDS else DDPM_SOLVERS:
        for steps in config.numbers:
            pipe.scheduler = convert_scheduler(name, own, kind)
            calls = len(Solver(pipe.scheduler, steps, kind).timesteps)
            shares = oracle_share(pipe, config.videos_per_class, steps, config.guidance_scale)
            results.append(SolverResult(folder, kind, name, steps, calls, **shares))
            print(row(results[-1]), flush=True)
    return results


def row(result: SolverResult) -> str:
    """One line of the table."""
    shares = "".join(f"{share:9.0%}" for share in (result.shape, result.motion, result.both))
    return f"{result.prediction_type:14}{result.scheduler:34}{result.steps:6}{result.calls:7}{shares}"


def plot(results: Sequence[SolverResult], path: Path) -> None:
    """Confirmed share against calls of the network, a line per scheduler."""
    figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")
    lines: dict[tuple[str, str], list[SolverResult]] = {}
    for result in results:
        lines.setdefault((result.prediction_type, result.scheduler), []).append(result)
    for (kind, scheduler), points in lines.items():
        axis.plot(
            [point.calls for point in points],
            [100 * point.both for point in points],
            marker="o",
            label=f"{kind}: {scheduler.removesuffix('Scheduler')}",
        )
    axis.set(xscale="log", xlabel="calls of the transformer", ylabel="samples confirmed by the oracle, %")
    axis.legend()
    save_figure(figure, path)


def execute(config: SolversConfig) -> None:
    """Sample with every solver, print, write and draw."""
    print(f"{'prediction':14}{'scheduler':34}{'steps':>6}{'calls':>7}{'shape':>9}{'motion':>9}{'both':>9}")
    results = [result for folder in config.pipelines.split(",") for result in measure(folder, config)]
    machine = environment(resolve_device("auto")) | {"guidance_scale": config.guidance_scale}
    write_json(config.output_dir / "solvers.json", "solvers", machine, results)
    plot(results, config.output_dir / "solvers.png")
    print(f"wrote solvers.json and solvers.png to {config.output_dir}")
