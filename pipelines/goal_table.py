"""The goals, and the table that sets what was measured beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from pipelines.goals import FIGURES, Findings

NOT_MEASURED = "not measured"
OF_REAL_CLIPS = "real clips"


@dataclass(frozen=True)
class Goal:
    """What a figure should reach.

    Attributes:
        caption: what the figure is.
        demo: goal for a training from scratch in the demo; None if there is none.
        long: goal for a long training.
        unit: "%" if the figure is a share in [0, 1], or "dB".
    """

    caption: str
    demo: float | None
    long: float
    unit: Literal["%", "dB"] = "%"


GOALS = {
    "exchange_content": Goal("exchange of real latents: content of S", 0.6, 0.9),
    "exchange_motion": Goal("exchange of real latents: motion of D", 0.9, 0.95),
    "samples": Goal("samples: shape and motion as asked", 0.7, 0.95),
    "dynamics_motion": Goal("D given S and a motion: motion as asked", 0.85, 0.95),
    "dynamics_shape": Goal("D given S and a motion: shape kept", 0.6, 0.9),
    "structure_shape": Goal("S given D and a shape: shape as asked", 0.6, 0.9),
    "structure_motion": Goal("S given D and a shape: motion kept", 0.9, 0.95),
    "sprites_action_exchanged": Goal("sprites, content exchanged: action kept", None, 0.995),
    "sprites_action_sampled": Goal("sprites, content sampled: action kept", None, 0.99),
    "sprites_attributes_exchanged": Goal("sprites, motion exchanged: least kept attribute", None, 0.95),
    "sprites_attributes_sampled": Goal("sprites, motion sampled: least kept attribute", None, 0.93),
    "psnr": Goal("reconstruction: PSNR", 24, 30, "dB"),
    "reconstructions": Goal("reconstruction: shape and motion confirmed", 0.85, 0.99),
}
AGREEMENTS = {
    "shape": "shape",
    "background": "background",
    "colour": "colour of the shape",
    "content": "all three",
    "axis": "axis",
    "path_correlation": "path: correlation along the axis",
    "path_distance": "path: pixels away",
}
NOTES = """\
Content: shape and both colours. Motion: the axis. Of several trainings of a pipeline: the mean, and each value. In
italics: from latents of real clips only, none of them sampled, and those of exchanged clips not exchanged; it is what
the autoencoder allows, if its latents are apart."""


def goal_table(columns: Mapping[str, Sequence[Findings]]) -> str:
    """The goals, what the judge says of real clips, and the figures of one or several pipelines, in Markdown.

    Args:
        columns: findings by the title of their column; several of one title are of trainings with other seeds, shown
            as the mean and each value.
    """
    everything = [found for findings in columns.values() for found in findings]
    titles = ["", "goal, from scratch", "goal, trained long", OF_REAL_CLIPS, *columns]
    rows = [titles]
    for key, goal in GOALS.items():
        goals = ("" if value is None else _text([value], goal.unit) for value in (goal.demo, goal.long))
        real = [found.real[key] for found in everything if key in found.real]
        cells = (_cell(findings, key, goal.unit) for findings in columns.values())
        rows.append([goal.caption, *goals, _text([fmean(real)], goal.unit) if real else "", *cells])
    return _markdown(rows)


def card_figures(findings: Findings | None) -> dict[str, str]:
    """The figures of a pipeline of moving shapes with the goals of a long training, for its model card, by caption.

    Args:
        findings: None says that nothing was measured.
    """
    rows = {}
    for key in (*FIGURES, "psnr"):
        goal, found = GOALS[key], {} if findings is None else findings.figures
        text = _text([found[key]], goal.unit) if key in found else NOT_MEASURED
        rows[goal.caption] = f"{text} (goal: {_text([goal.long], goal.unit)})"
    return rows


def exchange_table(columns: Mapping[str, Sequence[Findings]]) -> str:
    """What exchanged clips have in common with the sources of their latents, in Markdown.

    Args:
        columns: as of `goal_table`; of several trainings the mean is shown, and those without it are left out.
    """
    everything = {title: [found.exchanged for found in findings] for title, findings in columns.items()}
    measured = {title: list(filter(None, exchanged)) for title, exchanged in everything.items() if any(exchanged)}
    rows = [["exchanged clips: as the clip of S / of D", *measured]]
    for key, caption in AGREEMENTS.items():
        rows.append([caption, *(_agreement(exchanged, key) for exchanged in measured.values())])
    return _markdown(rows)


def _agreement(exchanged: Sequence[Mapping[str, Mapping[str, float | None]]], key: str) -> str:
    """The means for structure and for dynamics; a path that is seen nowhere has no distance."""
    is_share = not key.startswith("path")
    cells = []
    for latent in ("structure", "dynamics"):
        values = [found[latent][key] for found in exchanged if found[latent][key] is not None]
        mean = fmean(values) if values else None
        cells.append(NOT_MEASURED if mean is None else _number(mean, "%") if is_share else f"{mean:.2f}")
    return " / ".join(cells) + (" %" if is_share else "")


def _cell(findings: Sequence[Findings], key: str, unit: str) -> str:
    values, unsampled = (
        [figures[key] for figures in row if key in figures]
        for row in ([found.figures for found in findings], [found.unsampled for found in findings])
    )
    if not values:
        return NOT_MEASURED
    return _text(values, unit) + (f", *{_text([fmean(unsampled)], unit)}*" if unsampled else "")


def _text(values: Sequence[float], unit: str) -> str:
    """The mean, and each value if there are several."""
    numbers = [_number(value, unit) for value in (fmean(values), *values)]
    return f"{numbers[0]} {unit}" + (f" ({', '.join(numbers[1:])})" if len(values) > 1 else "")


def _number(value: float, unit: str) -> str:
    return f"{100 * value:.1f}".removesuffix(".0") if unit == "%" else f"{value:.2f}".removesuffix(".00")


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |".rstrip() for row in rows
    ]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join(lines)
