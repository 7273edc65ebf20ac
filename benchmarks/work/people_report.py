"""What `python -m benchmarks.people` finds, and how it is said."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Judges:
    """Who names actions and looks, and how often they are right on real clips.

    Attributes:
        action_accuracy: share of clips whose action is named right by the other people's clips, among the actions that
            several people do; None where there are none.
        action_errors: number of clips of every action that are named as every other one, left-out people, by names.
        look_accuracy: share of clips whose look is named right by the other videos, among the looks that have several
            videos; None where there are none.
    """

    action_accuracy: float | None
    action_errors: dict[str, int]
    look_accuracy: float | None


@dataclass(frozen=True)
class Reconstructions:
    """How near reconstructions of the held-out clips are, and what the judges see in them; `part` is the latent that
    they come from.

    Attributes:
        autoencoder: name of the checkpoint.
        part: "both", "structure", "dynamics", or `work.people.FROZEN`.
        psnr, ssim, lpips: mean over frames.
        rfvd, rkvd: distances of the sets, with the logits of I3D.
        action, decoded_action, look: shares in [0, 1] of clips in which the judges of `Verdicts` see the clip's own.
        clips: how many.
    """

    autoencoder: str
    part: str
    psnr: float
    ssim: float
    lpips: float
    rfvd: float
    rkvd: float
    action: float
    decoded_action: float
    look: float
    clips: int


@dataclass(frozen=True)
class Exchange:
    """What is seen where the structure of one clip meets the dynamics of another: shares in [0, 1].

    Attributes:
        people: whose clips, "training" or "held-out".
        pairs: of clips of two people and two actions.
        action_of_dynamics, action_of_structure: the action is that of the clip which gave this latent.
        decoded_action_of_dynamics: as the first, by the judge of decoded clips.
        look_of_structure, look_of_dynamics: the look likewise.
    """

    people: str
    pairs: int
    action_of_dynamics: float
    action_of_structure: float
    decoded_action_of_dynamics: float
    look_of_structure: float
    look_of_dynamics: float


@dataclass(frozen=True)
class Distance:
    """FVD and KVD between two sets of clips.

    Attributes:
        sets: what is compared with the training clips.
        action: which one, or "all".
        clips: of either set.
        fvd, kvd: one value per seed; empty where either set has fewer than two clips.
    """

    sets: str
    action: str
    clips: int
    fvd: list[float]
    kvd: list[float]


@dataclass(frozen=True)
class Samples:
    """Samples of the pipeline, judged: shares in [0, 1], one per seed.

    Attributes:
        given: "nothing", or whose structure was given, "training" or "held-out".
        clips: of each seed.
        action, decoded_action: the action is the one asked for, by either judge.
        look: the look is that of the given structure; empty where none was given.
        by_action: `action` of every class, mean over the seeds; None of one that was not asked for.
    """

    given: str
    clips: int
    action: list[float]
    decoded_action: list[float]
    look: list[float]
    by_action: dict[str, float | None]


@dataclass(frozen=True)
class Found:
    """All that was measured, the last three empty without a pipeline."""

    judges: Judges
    reconstructions: list[Reconstructions]
    exchanges: list[Exchange]
    distances: list[Distance]
    samples: list[Samples]


def judge_text(judges: Judges) -> str:
    """How right the judges are."""
    errors = ", ".join(f"{name} {count}" for name, count in judges.action_errors.items()) or "none"
    return (
        f"judge of actions, people left out: {_share(judges.action_accuracy, '.1%')} right (errors: {errors}); "
        f"judge of looks, videos left out: {_share(judges.look_accuracy, '.1%')}"
    )


def tables(found: Found) -> str:
    """All rows as tables in Markdown."""
    parts = [
        "| held-out people | PSNR, dB | SSIM | LPIPS | rFVD | rKVD | action | by decoded clips | look | clips |",
        "|---" * 10 + "|",
        *(
            f"| {' '.join(filter(None, (row.autoencoder, row.part)))} | {row.psnr:.2f} | {row.ssim:.3f} | "
            f"{row.lpips:.4f} | {row.rfvd:.1f} | {row.rkvd:.2f} | {row.action:.0%} | "
            f"{row.decoded_action:.0%} | {row.look:.0%} | {row.clips} |"
            for row in found.reconstructions
        ),
        "",
        "| exchange | pairs | action of D | action of S | action of D, by decoded clips | look of S | look of D |",
        "|---" * 7 + "|",
        *(
            f"| {row.people} people | {row.pairs} | {row.action_of_dynamics:.0%} | {row.action_of_structure:.0%} | "
            f"{row.decoded_action_of_dynamics:.0%} | {row.look_of_structure:.0%} | {row.look_of_dynamics:.0%} |"
            for row in found.exchanges
        ),
    ]
    if found.samples:
        names = list(found.samples[0].by_action)
        parts += [
            "",
            f"| samples, given | clips | action as asked | {' | '.join(names)} | by decoded clips | look kept |",
            "|---" * (len(names) + 5) + "|",
            *(
                f"| {row.given} | {row.clips} | {spread(row.action, '.0%')} | "
                f"{' | '.join(_share(value, '.0%') for value in row.by_action.values())} | "
                f"{spread(row.decoded_action, '.0%')} | {spread(row.look, '.0%')} |"
                for row in found.samples
            ),
            "",
            "| from the training clips | action | clips | KVD | FVD |\n|---|---|---|---|---|",
            *(
                f"| {row.sets} | {row.action} | {row.clips} | {spread(row.kvd, '.2f') or NOT_MEASURED} | "
                f"{spread(row.fvd, '.0f') or NOT_MEASURED} |"
                for row in found.distances
            ),
        ]
    return "\n".join(parts)


def _share(value: float | None, form: str) -> str:
    return NOT_MEASURED if value is None else f"{value:{form}}"


def spread(values: Sequence[float], form: str) -> str:
    """Mean, and lowest and highest of several."""
    if not values:
        return ""
    mean = f"{np.mean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}} to {max(values):{form}})"
