"""Moving shapes judged by the oracle: shares of clips that show their class, and the spread within a class."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from autoencoder.common.pictures import unit_to_uint8
from autoencoder.data.shapes import shapes_of
from autoencoder.metrics.oracle import Verdict, confirmed, oracle
from pipelines.evaluation.report import Repeat, summary
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline


def class_shares(repeats: Sequence[Repeat], class_name: Callable[[int], str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Shares of moving shapes whose shape, motion and both the oracle confirms, by row: `summary` over the repeats.

    Args:
        repeats: the evaluation's repeats.
        class_name: class name of a real clip, by index.
    """
    result = {}
    for row in ("samples", "reconstructions", "real clips"):
        shares = []
        for repeat in repeats:
            findings = repeat.real.values() if row == "real clips" else repeat.rows[row]
            shares.append(
                confirmed([found.verdict for found in findings], [class_name(index) for index in repeat.real])
            )
        result[row] = {name: summary([share[name] for share in shares]) for name in shares[0]}
    return result


def oracle_share(
    pipe: VidTwinDiffusionPipeline, videos_per_class: int, num_inference_steps: int, guidance_scale: float
) -> dict[str, float]:
    """Sample every class with the seeds 0, 1, 2, ... and let the oracle judge the samples.

    Returns:
        Shares of the samples whose `shape`, `motion` and class (`both`) it confirms, in [0, 1].
    """
    pipe.set_progress_bar_config(disable=True)
    names = pipe.transformer.class_names
    shapes, verdicts = shapes_of(names), []
    for label in range(len(names)):
        seed = label * videos_per_class
        out = pipe(label, num_inference_steps, guidance_scale, videos_per_class, generator=seed)
        verdicts += [oracle(video, shapes) for video in unit_to_uint8(out.frames)]
    return confirmed(verdicts, [name for name in names for _ in range(videos_per_class)])


def spread(verdicts: Sequence[Verdict], class_names: Sequence[str]) -> dict[str, float]:
    """Standard deviation within a class of colour (RGB in [0, 1]) and place (share of the frame), mean over classes.

    NaN if no class has two clips in which the oracle recognises a shape.
    """
    result = {}
    for quantity in ("colour", "centre"):
        deviations = []
        for name in sorted(set(class_names)):
            members = [v for v, other in zip(verdicts, class_names, strict=True) if other == name and v.shape != "none"]
            if len(members) > 1:
                deviations.append(np.std([getattr(member, quantity) for member in members], axis=0).mean())
        result["place" if quantity == "centre" else quantity] = float(np.mean(deviations)) if deviations else np.nan
    return result
