"""The clips that were judged for the goals, as rows of a sheet, those with a fault first."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from pipelines.goals import JudgedClips, Kind

NUM_CLIPS, NUM_FRAMES = 5, 4  # of a row, of a clip
MIN_SIDE = 64  # of a frame, in pixels
EDGE, LABEL_SIZE = 4, 14
FAULT, PAPER, INK = (220, 0, 0), (255, 255, 255), (0, 0, 0)
LEGEND = "in red: the oracle does not see what is asked for; these stand first"
SAMPLED = {"dynamics": ("structure", "another motion"), "structure": ("dynamics", "another shape")}

Row = tuple[str, np.ndarray]


def goal_rows(kinds: dict[str, Kind], title: str = "") -> list[Row]:
    """Rows for `autoencoder.common.pictures.sheet`, to be drawn with `columns=NUM_CLIPS` and `scale=1`.

    Args:
        kinds: those of `pipelines.goals.Findings`; kinds that were not measured are left out.
        title: stands before every caption, such as the name of a pipeline.

    Returns:
        Captions, and `NUM_CLIPS` clips side by side, each a picture of `NUM_FRAMES` frames.
    """
    rows = [*_reconstruction_rows(kinds["reconstructions"]), *_exchange_rows(kinds["exchange"])]
    rows += _sample_rows(kinds["samples"].decoded)
    for name in SAMPLED:
        rows += _given_rows(name, kinds[name]) if name in kinds else []
    return [(f"{title}: {caption}" if title else caption, pictures) for caption, pictures in rows]


def _reconstruction_rows(kind: Kind) -> list[Row]:
    chosen = _faulty_first(kind.decoded)
    return [
        (f"real, held-out clips ({LEGEND})", _clean(kind.sources["both"], chosen)),
        (f"reconstructions of these: {_count(kind.decoded)}", _judged(kind.decoded, chosen)),
    ]


def _exchange_rows(kind: Kind) -> list[Row]:
    """Both ways: clip i is exchanged once as the source of structure, and once, half of all further on, of dynamics."""
    half = len(kind.decoded.clips) // 2
    is_right = [right["both"] for right in kind.decoded.right]
    chosen = sorted(range(half), key=lambda index: is_right[index] + is_right[index + half])[:NUM_CLIPS]
    other_way = [index + half for index in chosen]
    return [
        ("real clips A", _clean(kind.sources["structure"], chosen)),
        ("real clips B", _clean(kind.sources["dynamics"], chosen)),
        (f"structure of A, dynamics of B; both ways {_count(kind.decoded)}", _judged(kind.decoded, chosen)),
        ("structure of B, dynamics of A", _judged(kind.decoded, other_way)),
    ]


def _sample_rows(samples: JudgedClips) -> list[Row]:
    """A row for every class."""
    rows = []
    for name in dict.fromkeys(samples.class_names):
        of_class = [index for index, other in enumerate(samples.class_names) if other == name]
        count = sum(samples.right[index]["both"] for index in of_class)
        chosen = sorted(of_class, key=lambda index: samples.right[index]["both"])[:NUM_CLIPS]
        caption = f"samples of {name}: {count} of {len(of_class)} confirmed"
        rows.append((caption, _judged(samples, chosen, labelled=False)))
    return rows


def _given_rows(name: str, kind: Kind) -> list[Row]:
    given, changed = SAMPLED[name]
    chosen = _faulty_first(kind.decoded)
    return [
        (f"real clips that give their {given}", _clean(kind.sources[given], chosen)),
        (f"{name} sampled for {changed}: {_count(kind.decoded)}", _judged(kind.decoded, chosen)),
    ]


def _faulty_first(clips: JudgedClips) -> list[int]:
    return sorted(range(len(clips.clips)), key=lambda index: clips.right[index]["both"])[:NUM_CLIPS]


def _count(clips: JudgedClips) -> str:
    return f"{sum(right['both'] for right in clips.right)} of {len(clips.right)} confirmed"


def _clean(clips: torch.Tensor, chosen: Sequence[int]) -> np.ndarray:
    return np.stack([_picture(clips[index], PAPER) for index in chosen])


def _judged(clips: JudgedClips, chosen: Sequence[int], labelled: bool = True) -> np.ndarray:
    """Pictures with a red edge around those with a fault, and what is asked for above."""
    labelled = labelled and bool(clips.class_names)
    return np.stack(
        [
            _picture(
                clips.clips[index],
                PAPER if clips.right[index]["both"] else FAULT,
                clips.class_names[index] if labelled else None,
            )
            for index in chosen
        ]
    )


def _picture(clip: torch.Tensor, edge: tuple[int, int, int], label: str | None = None) -> np.ndarray:
    """Some frames of a clip, uint8 (T, H, W, 3), side by side within an edge, with a label above: uint8 (h, w, 3)."""
    frames = clip[np.linspace(0, len(clip) - 1, NUM_FRAMES).round().astype(int)].numpy()
    scale = -(-MIN_SIDE // frames.shape[1])
    frames = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    _, height, width, _ = frames.shape
    top = 0 if label is None else LABEL_SIZE + EDGE
    picture = Image.new("RGB", (NUM_FRAMES * width + (NUM_FRAMES + 1) * EDGE, height + 2 * EDGE + top), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, top, picture.width, picture.height), fill=edge)
    if label is not None:
        draw.text((EDGE, 0), f"asked: {label}", fill=INK, font=ImageFont.load_default(LABEL_SIZE))
    for number, frame in enumerate(frames):
        picture.paste(Image.fromarray(frame), (EDGE + number * (width + EDGE), top + EDGE))
    return np.asarray(picture)
