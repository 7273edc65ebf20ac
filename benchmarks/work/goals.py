"""The work of `python -m benchmarks.goals`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoencoder.common.device import resolve_device
from autoencoder.common.errors import UserError
from autoencoder.common.pictures import save_png, sheet
from autoencoder.data.shapes import CLASS_NAMES as SHAPES_CLASSES
from autoencoder.data.sprite_sources import CLASS_NAMES as SPRITES_CLASSES
from benchmarks.goals import GoalsConfig
from benchmarks.report import environment, write_json
from benchmarks.settings import name_and_folder
from benchmarks.work.separation import sampler
from benchmarks.work.sprites_separation import JudgedSprites, SpritesRow
from pipelines.checkpoint import load_pipeline
from pipelines.goal_sheet import NUM_CLIPS, goal_rows
from pipelines.goal_table import GOALS, NOTES, exchange_table, goal_table
from pipelines.goals import FIRST_SEED, Findings, GoalSettings, class_names, measure_goals
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

SPRITES_SEED = FIRST_SEED  # of partners, samples and their classes
# Figure -> the row of the Sprites benchmark, and whether it is the action or the least of the attributes.
SPRITES_FIGURES = {
    "sprites_action_exchanged": ("exchanged: action of D, content of S", "action"),
    "sprites_action_sampled": ("D kept, S of the pipeline", "action"),
    "sprites_attributes_exchanged": ("exchanged: action of D, content of S", "attributes"),
    "sprites_attributes_sampled": ("S kept, D of the pipeline", "attributes"),
}


@dataclass(frozen=True)
class PipelineFigures:
    """What was measured of a pipeline.

    Attributes:
        column: title of its column.
        pipeline: its folder or name.
        figures, unsampled, real, exchanged, by_class: as of `pipelines.goals.Findings`.
        sprites: rows of the Sprites benchmark; None for moving shapes.
    """

    column: str
    pipeline: str
    figures: dict[str, float]
    unsampled: dict[str, float]
    real: dict[str, float]
    exchanged: dict[str, dict[str, float | None]]
    by_class: dict[str, dict[str, float]]
    sprites: list[SpritesRow] | None


def execute(config: GoalsConfig) -> None:
    """Measure all pipelines, print and write."""
    columns: dict[str, list[Findings]] = {}
    goal_settings = GoalSettings(**settings(config))
    named = [name_and_folder(text) for text in config.pipelines]
    pipes = [checked_pipeline(name, config) for _, name in named]
    judged = None
    if any(class_names(pipe) == SPRITES_CLASSES for pipe in pipes):
        judged = JudgedSprites(config.judge, config.data_root, config.judged_clips, SPRITES_SEED, config.device)
    results = []
    for (column, name), pipe in zip(named, pipes, strict=True):
        print(f"measuring {name}", flush=True)
        found, sprites = measure(pipe, name, goal_settings, judged)
        columns.setdefault(column, []).append(found)
        parts = (getattr(found, part) for part in ("figures", "unsampled", "real", "exchanged", "by_class"))
        results.append(PipelineFigures(column, name, *parts, sprites))
    print(f"\n{goal_table(columns)}\n\n{NOTES}")
    if any(found.exchanged for findings in columns.values() for found in findings):
        print(f"\n{exchange_table(columns)}")
    about = environment(resolve_device(config.device)) | {"settings": settings(config)}
    write_json(config.output, "goals", about | {"goals": {key: asdict(goal) for key, goal in GOALS.items()}}, results)
    print(f"\nwrote {config.output}")
    if config.sheet:
        write_sheet(columns, config.sheet)
        print(f"wrote {config.sheet}")


def checked_pipeline(name: str, config: GoalsConfig) -> VidTwinDiffusionPipeline:
    """Load a pipeline by its folder or name.

    Raises:
        UserError: if its classes are of neither moving shapes nor sprites, or there is no judge for sprites.
    """
    pipe = load_pipeline(name, config.device)
    classes = class_names(pipe)
    if classes not in (SHAPES_CLASSES, SPRITES_CLASSES):
        raise UserError(f"{name} samples classes of neither moving shapes nor sprites, for which there are goals")
    if classes == SPRITES_CLASSES and config.judge is None:
        raise UserError(f"{name} samples sprites: give a judge of them by --judge, and their file by --data-root")
    return pipe


def measure(
    pipe: VidTwinDiffusionPipeline, name: str, goal_settings: GoalSettings, judged: JudgedSprites | None
) -> tuple[Findings, list[SpritesRow] | None]:
    """Measure a pipeline of moving shapes, or of sprites by these judged ones, of which also all rows are returned.

    Args:
        pipe: the pipeline.
        name: its folder or name.
        goal_settings: how moving shapes are measured, and the steps and the guidance of both.
        judged: needed for a pipeline of sprites only.
    """
    if class_names(pipe) == SHAPES_CLASSES:
        return measure_goals(pipe, goal_settings), None
    sample = sampler(pipe, goal_settings.num_inference_steps, goal_settings.guidance_scale, SPRITES_SEED)
    rows = judged.measure(Path(name), pipe.vae, sample)
    return sprites_findings(rows), rows


def sprites_findings(rows: Sequence[SpritesRow]) -> Findings:
    """The figures of sprites from the rows of their benchmark."""
    scores = {row.clips: row.scores for row in rows}

    def figure(row: str, what: str) -> float:
        return scores[row].action if what == "action" else min(scores[row].attributes.values())

    def of_one_row(row: str) -> dict[str, float]:
        return {key: figure(row, what) for key, (_, what) in SPRITES_FIGURES.items()}

    return Findings(
        figures={key: figure(*place) for key, place in SPRITES_FIGURES.items()},
        unsampled=of_one_row("reconstructions"),
        real=of_one_row("real clips"),
    )


def settings(config: GoalsConfig) -> dict[str, Any]:
    """The command's values of `GoalSettings`."""
    return {name: getattr(config, name) for name in GoalSettings.__dataclass_fields__}


def write_sheet(columns: dict[str, list[Findings]], path: Path) -> None:
    """Write a sheet of the first pipeline of moving shapes in every column.

    Raises:
        UserError: if there is none.
    """
    rows = []
    for title, findings in columns.items():
        kinds = next((found.kinds for found in findings if found.kinds), None)
        rows += goal_rows(kinds, title if len(columns) > 1 else "") if kinds else []
    if not rows:
        raise UserError("a sheet shows pipelines of moving shapes; there is none")
    save_png(sheet(rows, columns=NUM_CLIPS, scale=1), path)
