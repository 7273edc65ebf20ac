"""The tab that joins structure and dynamics of two clips, and samples one latent for a given other one."""

from dataclasses import dataclass

import gradio as gr
import torch

from autoencoder.common.errors import UserError
from autoencoder.latents import VidTwinLatents
from pipelines.page.controls import (
    Desk,
    SamplingControls,
    class_choice,
    go_and_stop,
    seed_field,
    shown_video,
    status_line,
)
from pipelines.page.films import show
from pipelines.page.sources import Source, SourceControls
from pipelines.page.studio import SamplingSettings, Studio
from pipelines.page.visits import Visit
from pipelines.page.work import Work

# Structure and dynamics of the four videos, as places in the pair of clips.
PAIRS = ((0, 0), (0, 1), (1, 0), (1, 1))
LABELS = [f"S of {'AB'[structure]}, D of {'AB'[dynamics]}" for structure, dynamics in PAIRS]
OTHER = {"structure": "dynamics", "dynamics": "structure"}


@dataclass(frozen=True)
class Given:
    """One latent that is given, and what the other one is sampled for.

    Attributes:
        latent: "structure" or "dynamics", of clip A.
        class_name, seed: of the other latent.
    """

    latent: str
    class_name: str
    seed: int | None


def exchange(studio: Studio, first: VidTwinLatents, second: VidTwinLatents) -> torch.Tensor:
    """Decode every pair of a structure and a dynamics latent of two clips.

    Args:
        studio: the pipeline.
        first, second: latents of a clip each (B = 1).

    Returns:
        uint8 (4, T, S, S, 3), in the order of `PAIRS`.
    """
    both = VidTwinLatents.cat([first, second])
    structure, dynamics = (torch.tensor(places) for places in zip(*PAIRS, strict=True))
    return studio.decode(VidTwinLatents(both.structure[structure], both.dynamics[dynamics]))


def exchange_sources(
    studio: Studio, visit: Visit, work: Work, sources: tuple[Source, Source], settings: SamplingSettings
) -> list[str]:
    """The clips of two sources and their four videos, as six files."""
    taken = [source.take(studio, visit, work, settings) for source in sources]
    videos = exchange(studio, *(latents for latents, _ in taken))
    work.check()
    folder = visit.new_folder("exchange")
    names = ["clip_A", "clip_B", *(label.replace(", ", "_").replace(" ", "_") for label in LABELS)]
    clips = [*(clip for _, clip in taken), *videos]
    files = [show(clip, folder / f"{name}.mp4") for clip, name in zip(clips, names, strict=True)]
    visit.keep_newest(folder)
    return files


def sample_other(
    studio: Studio, visit: Visit, work: Work, source: Source, given: Given, settings: SamplingSettings
) -> list[str]:
    """Sample one latent for the other one of a source, as three files: clip, given latent alone, and the sample.

    Raises:
        UserError: if the transformer was not trained for that.
    """
    if not studio.takes_given_latents:
        raise UserError("this pipeline's transformer samples both latents together only")
    latents, clip = source.take(studio, visit, work, settings)
    alone = studio.decode(latents, given.latent)[0]
    sampled = studio.sample(
        given.class_name, given.seed, settings, work, output_type="latent", **{given.latent: latents}
    ).frames
    folder = visit.new_folder("given")
    videos = {"clip_A": clip, f"{given.latent}_alone": alone, "sampled": studio.decode(sampled)[0]}
    files = [show(video, folder / f"{name}.mp4") for name, video in videos.items()]
    visit.keep_newest(folder)
    return files


def recombine_tab(desk: Desk) -> None:
    """Lay the tab out."""
    studio = desk.studio
    status = status_line("recombine", render=False)
    with gr.Row():
        with gr.Column():
            first = SourceControls(desk, "recombine-A", 0, status)
        with gr.Column():
            second = SourceControls(desk, "recombine-B", 3, status)
        with gr.Column():
            with gr.Accordion("How samples are made"):
                controls = SamplingControls(studio)
            status.render()
    gr.Markdown("### Structure S and dynamics D of either clip")
    go, stop = go_and_stop("exchange", "Exchange")
    with gr.Row(elem_classes="together"):
        videos = [shown_video(label, min_width=270) for label in LABELS]

    def exchanged(visit: Visit, work: Work, *values):
        sources = Source(first.name, *values[:4]), Source(second.name, *values[4:8])
        return "", *exchange_sources(studio, visit, work, sources, SamplingSettings(*values[8:]))

    inputs = [*first.inputs, *second.inputs, *controls.inputs]
    desk.on(go.click, "exchange", exchanged, inputs, status, [first.shown, second.shown, *videos], stop)
    _given_part(desk, first, controls, status)


def _given_part(desk: Desk, source: SourceControls, controls: SamplingControls, status: gr.Markdown) -> None:
    """The lower part of the tab."""
    studio = desk.studio
    gr.Markdown("### One latent of clip A given, the other one sampled for a class")
    with gr.Row(elem_classes="together"):
        with gr.Column():
            latent = gr.Radio([*OTHER], value="structure", label="Given latent", elem_id="given-latent")
            with gr.Row():
                class_name, seed = class_choice(studio, index=1), seed_field()
            go, stop = go_and_stop("given", "Sample the other")
        alone, sampled = shown_video("given latent alone"), shown_video("with the other latent sampled")

    def work(visit: Visit, work: Work, *values):
        given = Given(*values[4:7])
        files = sample_other(
            studio, visit, work, Source(source.name, *values[:4]), given, SamplingSettings(*values[7:])
        )
        labels = f"{given.latent} of A alone", f"with {OTHER[given.latent]} sampled for {given.class_name}"
        return "", files[0], *(gr.Video(file, label=label) for file, label in zip(files[1:], labels, strict=True))

    inputs = [*source.inputs, latent, class_name, seed, *controls.inputs]
    desk.on(go.click, "given", work, inputs, status, [source.shown, alone, sampled], stop)
