"""What a pipeline of moving shapes can do, as pictures: samples, exchanges, controls, and what each latent holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autoencoder.codec import decode_clips, encode_clips
from autoencoder.common.errors import UserError
from autoencoder.common.pictures import PanelRow, moving_panels, panel_sheet, save_png, save_webp, unit_to_uint8
from autoencoder.data import Shapes
from autoencoder.data.shapes import CLASS_NAMES, MOTIONS
from autoencoder.latents import VidTwinLatents
from pipelines.goals import class_names
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

FPS = 8.0
# The first held-out clips of every shape, with alternating motions; the class of clip i is i modulo 10.
SOURCES = (0, 3, 4, 7, 8)


@dataclass(frozen=True)
class Section:
    """Panels about one ability.

    Attributes:
        name: of its file, without the ending.
        title: what the ability is.
        rows: the panels.
    """

    name: str
    title: str
    rows: Sequence[PanelRow]


class Showcase:
    """Makes the pictures of a pipeline.

    Args:
        pipe: trained on moving shapes.
        num_inference_steps, guidance_scale: as in the pipeline.

    Raises:
        UserError: if its classes are others.
    """

    def __init__(self, pipe: VidTwinDiffusionPipeline, num_inference_steps: int, guidance_scale: float):
        if class_names(pipe) != CLASS_NAMES:
            raise UserError(f"moving shapes are shown, of the classes {', '.join(CLASS_NAMES)}, not others")
        self.pipe = pipe
        self.settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        self.held_out = Shapes(pipe.vae.config.num_frames, pipe.vae.config.sample_size, "val")
        self.labels = [self.held_out.label(index) for index in SOURCES]
        self.clips = torch.stack([self.held_out.clip(index) for index in SOURCES])  # (5, T, H, W, 3)
        self.latents = encode_clips(pipe.vae, self.clips)

    def sections(self) -> list[Section]:
        """All sections; those with a given latent only if the pipeline was trained with `independent_times`."""
        sections = [self.samples(), self.exchanges()]
        if self.pipe.transformer.config.independent_times:
            sections.append(self.controls())
        return [*sections, self.reconstructions()]

    def samples(self) -> Section:
        """A sample of every class, with the class's id as seed: a row for every motion."""
        rows = []
        for motion in MOTIONS:
            labels = [label for label, name in enumerate(CLASS_NAMES) if name.endswith(motion)]
            rows.append(_row(f"moving {motion}", self._sampled(labels, generator=labels), labels))
        return Section("samples", "Samples of all classes", rows)

    def exchanges(self) -> Section:
        """Structure of one held-out clip with dynamics of another one, of the next shape and the other motion."""
        others = [(index ^ 1) + 2 for index in SOURCES]
        clips = torch.stack([self.held_out.clip(index) for index in others])
        dynamics = encode_clips(self.pipe.vae, clips).dynamics
        together = decode_clips(self.pipe.vae, VidTwinLatents(self.latents.structure, dynamics))
        rows = [
            _row("structure of these clips", self.clips, self.labels),
            _row("dynamics of these", clips, [self.held_out.label(index) for index in others]),
            _row("together: content of the first ones, motion of the second", together, _turned(self.labels)),
        ]
        return Section("exchanges", "Exchanged latents of real clips", rows)

    def controls(self) -> Section:
        """One latent of a held-out clip, and the other one sampled for another motion or another shape."""
        turned, reshaped = _turned(self.labels), [(label + 2) % len(CLASS_NAMES) for label in self.labels]
        seeds = list(SOURCES)
        with_structure = self._sampled(turned, generator=seeds, structure=self.latents)
        with_dynamics = self._sampled(reshaped, generator=seeds, dynamics=self.latents)
        rows = [
            _row("one latent of these clips is given", self.clips, self.labels),
            _row("their structure; dynamics sampled for the other motion", with_structure, turned),
            _row("their dynamics; structure sampled for the next shape", with_dynamics, reshaped),
        ]
        return Section("controls", "One latent given, the other one sampled", rows)

    def reconstructions(self) -> Section:
        """Held-out clips, decoded from both latents and from one alone."""
        captions = {"both": "reconstructed", "structure": "structure alone", "dynamics": "dynamics alone"}
        decoded = {part: decode_clips(self.pipe.vae, self.latents, part) for part in captions}
        rows = [_row("real clips, held out", self.clips, self.labels)]
        rows += [_row(caption, decoded[part], self.labels) for part, caption in captions.items()]
        return Section("reconstructions", "What the two latents hold", rows)

    def _sampled(self, labels: Sequence[int], **options) -> torch.Tensor:
        """Samples, uint8 (B, T, H, W, 3)."""
        return unit_to_uint8(self.pipe(labels, **self.settings, **options).frames)


def write_showcase(sections: Sequence[Section], folder: Path) -> list[Path]:
    """Write sheet.png, and a moving picture of every section as NAME.webp; returns the files."""
    sheet = folder / "sheet.png"
    save_png(panel_sheet([(section.title, section.rows) for section in sections]), sheet)
    paths = [folder / f"{section.name}.webp" for section in sections]
    for section, path in zip(sections, paths, strict=True):
        save_webp(moving_panels(section.rows), path, FPS)
    return [sheet, *paths]


def _row(caption: str, clips: torch.Tensor, labels: Sequence[int]) -> PanelRow:
    names = [CLASS_NAMES[label].replace("_", ", ") for label in labels]
    return PanelRow(caption, list(clips), names)


def _turned(labels: Sequence[int]) -> list[int]:
    """The same shapes in the other motion."""
    return [label ^ 1 for label in labels]
