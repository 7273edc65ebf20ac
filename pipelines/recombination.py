"""Measuring samples with one latent given and the other one sampled, on moving shapes.

The classes are all pairs of shapes and motions. The given latent is that of a held-out clip; the class asked for keeps
what this latent should carry (the shape for structure, the motion for dynamics) and changes the rest.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from autoencoder.codec import decode_clips, encode_clips
from autoencoder.data import Shapes
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics.oracle import confirmed, oracle
from autoencoder.metrics.reconstruction import clips_psnr
from autoencoder.metrics.separation import truth, whose
from autoencoder.vidtwin import AutoencoderVidTwin
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

BATCH = 20
# Row of the table -> the latent given.
GIVEN = {"S, D | c": None, "D | S, c": "structure", "S | D, c": "dynamics"}
LATENT_NAMES = ("structure", "dynamics")


@dataclass(frozen=True)
class Recombination:
    """One row of the table.

    Attributes:
        shape, motion, both: shares of the videos whose shape, motion and class are those asked for, in [0, 1].
        kept: PSNR in dB of the output's given latent decoded alone, against the source's decoded alone, 80 dB if equal;
            None if nothing is given.
        source: PSNR in dB of the output's given latent decoded alone, against the source clip; None likewise.
    """

    shape: float
    motion: float
    both: float
    kept: float | None = None
    source: float | None = None


class Sources:
    """Held-out clips and their latents.

    Args:
        vae: the autoencoder.
        held_out: moving shapes; the class of clip i is i modulo 10, its motion the last bit.
        count: number of sources, without their partners.
    """

    def __init__(self, vae: AutoencoderVidTwin, held_out: Shapes, count: int):
        self.vae, self.count, self.class_names = vae, count, held_out.class_names
        indices = range(count + 4)  # partners lie up to 4 behind the last sources
        self.labels = [held_out.label(index) for index in indices]
        self.truths = [truth(held_out.content(index), held_out.motion(index), held_out.size) for index in indices]
        self.clips = torch.stack([held_out.clip(index) for index in indices])  # (count + 4, T, H, W, 3)
        self.latents = encode_clips(vae, self.clips)

    def partners(self, given: str | None) -> list[int]:
        """For every source, the index of a clip of the class asked for.

        It has the other motion if structure is given, the next shape if dynamics is given, and is else the source.
        """
        offsets = {"structure": lambda index: index ^ 1, "dynamics": lambda index: index + 2, None: int}
        return [offsets[given](index) for index in range(self.count)]

    def measure(
        self, latents: VidTwinLatents, videos: torch.Tensor, classes: Sequence[int], given: str | None
    ) -> Recombination:
        """Measure a row.

        Args:
            latents: the videos' latents.
            videos: uint8 (count, T, H, W, 3), decoded from them.
            classes: asked for.
            given: "structure", "dynamics" or None.
        """
        verdicts = [oracle(video) for video in videos]
        shares = confirmed(verdicts, [self.class_names[label] for label in classes])
        if given is None:
            return Recombination(**shares)
        kept, source = (decode_clips(self.vae, both, given) for both in (latents, self.latents[: self.count]))
        return Recombination(**shares, kept=clips_psnr(kept, source), source=clips_psnr(kept, self.clips[: self.count]))

    def real(self, given: str) -> Recombination:
        """The ceiling of a row: the latent that is not given is taken from the partner, a real clip of the class."""
        mixed = self.mixed(given)
        return self.measure(mixed, decode_clips(self.vae, mixed), self.classes(given), given)

    def classes(self, given: str | None) -> list[int]:
        """The class asked for, for every source."""
        return [self.labels[index] for index in self.partners(given)]

    def mixed(self, given: str | None) -> VidTwinLatents:
        """The latents of all sources, with those that are not given taken from the partner."""
        return _mix(given, self.latents[: self.count], self.latents[torch.tensor(self.partners(given))])

    def carried(self) -> dict[str, dict[str, float]]:
        """Which latent carries shape and motion, if structure and dynamics come from real clips that differ in both.

        Returns:
            For "structure" and "dynamics", the shares of the videos with the `shape`, the `content` (shape and both
            colours) and the `motion` of the clip that this latent was taken from.
        """
        clips = {"structure": list(range(self.count)), "dynamics": [(i ^ 1) + 2 for i in range(self.count)]}
        mixed = _mix("structure", self.latents[: self.count], self.latents[torch.tensor(clips["dynamics"])])
        seen = [oracle(video) for video in decode_clips(self.vae, mixed)]
        rows = whose(seen, *([self.truths[index] for index in clips[latent]] for latent in LATENT_NAMES))
        names = {"shape": "shape", "content": "content", "motion": "axis"}
        return {latent: {name: rows[latent][key] for name, key in names.items()} for latent in LATENT_NAMES}


def sample(
    pipe: VidTwinDiffusionPipeline, sources: Sources, given: str | None, seed: int = 0, **settings
) -> VidTwinLatents:
    """One sample per source, of the class of its partner; sample i has the seed `seed` + i.

    Args:
        pipe: a pipeline trained on moving shapes; with `independent_times` if a latent is given.
        sources: clips and their latents.
        given: "structure", "dynamics" or None.
        seed: of the first sample.
        settings: further arguments of the pipeline.
    """
    classes = sources.classes(given)
    parts = []
    for start in range(0, sources.count, BATCH):
        batch = slice(start, min(start + BATCH, sources.count))
        source = {} if given is None else {given: sources.latents[batch]}
        out = pipe(classes[batch], generator=seed + start, output_type="latent", **settings, **source)
        parts.append(out.frames)
    return VidTwinLatents.cat(parts)


def tabulate(
    pipe: VidTwinDiffusionPipeline, sources: Sources, **settings
) -> tuple[dict[str, Recombination], dict[str, torch.Tensor]]:
    """All rows, with the ceilings last, and the videos of the sampled rows, uint8 (count, T, H, W, 3)."""
    rows, videos = {}, {}
    for name, given in GIVEN.items():
        latents = sample(pipe, sources, given, **settings)
        videos[name] = decode_clips(pipe.vae, latents)
        rows[name] = sources.measure(latents, videos[name], sources.classes(given), given)
    return rows | {f"real {latent}": sources.real(latent) for latent in LATENT_NAMES}, videos


def recombine(
    pipe: VidTwinDiffusionPipeline, held_out: Shapes, count: int, num_inference_steps: int, guidance_scale: float
) -> tuple[dict[str, Any], list[tuple[str, list[torch.Tensor]]]]:
    """Measure all rows, and collect pictures.

    Args:
        pipe: a pipeline trained on moving shapes with `independent_times`.
        held_out: the data set of the sources.
        count: videos of every row, at least 10.
        num_inference_steps, guidance_scale: as in the pipeline.

    Returns:
        The argument of `recombination_table`, which JSON can hold, and rows of `autoencoder.common.pictures.sheet`.
    """
    sources = Sources(pipe.vae, held_out, count)
    rows, videos = tabulate(pipe, sources, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)
    captions = {
        "held-out clips that give a latent": sources.clips,
        "their structure, with dynamics sampled for the other motion": videos["D | S, c"],
        "their dynamics, with structure sampled for the next shape": videos["S | D, c"],
    }
    pictures = [(caption, list(clips[:10:2])) for caption, clips in captions.items()]  # one of every shape
    return {"rows": {name: asdict(row) for name, row in rows.items()}, "carried": sources.carried()}, pictures


def recombination_table(summary: dict[str, Any]) -> str:
    """The rows of the table, and what either latent carries, as lines to print."""
    lines = [f"{'one latent given':28}{'shape':>9}{'motion':>8}{'both':>8}{'kept, dB':>10}{'source, dB':>12}"]
    for name, row in summary["rows"].items():
        shares = f"{row['shape']:9.0%}{row['motion']:8.0%}{row['both']:8.0%}"
        decibels = "" if row["kept"] is None else f"{row['kept']:10.2f}{row['source']:12.2f}"
        lines.append(f"{name:28}{shares}{decibels}")
    lines += ["", f"{'real S and D of two clips':28}{'shape':>9}{'content':>9}{'motion':>8}"]
    for latent, share in summary["carried"].items():
        lines.append(
            f"{'as in the clip of the ' + latent:28}{share['shape']:9.0%}{share['content']:9.0%}{share['motion']:8.0%}"
        )
    return "\n".join(lines)


def _mix(kept: str | None, first: VidTwinLatents, second: VidTwinLatents) -> VidTwinLatents:
    """The latent named `kept` of the first, with the rest of the second."""
    return second if kept is None else replace(second, **{kept: getattr(first, kept)})
