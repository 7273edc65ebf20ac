"""The tab that walks from one clip to another in either latent."""

import gradio as gr
import torch

from autoencoder.common.errors import UserError
from autoencoder.metrics.interpolation import LATENTS_OF_PART, between
from pipelines.page.controls import Desk, SamplingControls, go_and_stop, shown_video, status_line
from pipelines.page.films import show
from pipelines.page.sources import Source, SourceControls
from pipelines.page.studio import SamplingSettings, Studio
from pipelines.page.visits import Visit
from pipelines.page.work import Work


def take_ends(
    studio: Studio, visit: Visit, work: Work, sources: tuple[Source, Source], settings: SamplingSettings
) -> list[str]:
    """Take the latents of both clips, between which `step_to` goes; returns the files of the clips."""
    taken = [source.take(studio, visit, work, settings) for source in sources]
    work.check()
    visit.ends["walk"] = tuple(latents for latents, _ in taken)
    folder = visit.new_folder("ends")
    files = [show(clip, folder / f"clip_{name}.mp4") for (_, clip), name in zip(taken, "AB", strict=True)]
    visit.keep_newest(folder)
    return files


def video_between(studio: Studio, visit: Visit, part: str, share: float) -> torch.Tensor:
    """The video part of the way from clip A to clip B.

    Args:
        studio, visit: the pipeline, and whose clips they are.
        part: the latent that goes along, "structure", "dynamics" or "both"; the other one stays that of A.
        share: of the way, 0 at A and 1 at B.

    Returns:
        uint8 (T, S, S, 3).

    Raises:
        UserError: if there are no clips yet.
    """
    if "walk" not in visit.ends:
        raise UserError("there are no clips to walk between yet: take both first")
    return studio.decode(between(*visit.ends["walk"], share, part))[0]


def step_to(studio: Studio, visit: Visit, part: str, share: float) -> str:
    """As `video_between`, to a file."""
    video = video_between(studio, visit, part, share)
    folder = visit.new_folder("walk")
    shown = show(video, folder / f"{part}_{share:.2f}.mp4")
    visit.keep_newest(folder)
    return shown


def walk_tab(desk: Desk) -> None:
    """Lay the tab out."""
    studio = desk.studio
    status = status_line("walk", render=False)
    with gr.Row(elem_classes="together"):
        with gr.Column():
            first = SourceControls(desk, "walk-A", 0, status)
        with gr.Column():
            part = gr.Radio(
                [*LATENTS_OF_PART], value="structure", label="Latent that goes from A to B", elem_id="walk-part"
            )
            share = gr.Slider(0, 1, 0.5, step=0.05, label="Share of the way", elem_id="walk-share")
            video = shown_video("on the way", elem_id="walk-video")
            go, stop = go_and_stop("walk", "Take both clips")
            status.render()
        with gr.Column():
            second = SourceControls(desk, "walk-B", 3, status)
    with gr.Accordion("How samples are made", open=False):
        controls = SamplingControls(studio)

    def begin(visit: Visit, work: Work, part: str, share: float, *values):
        sources = Source(first.name, *values[:4]), Source(second.name, *values[4:8])
        files = take_ends(studio, visit, work, sources, SamplingSettings(*values[8:]))
        return "", *files, step_to(studio, visit, part, share)

    def go_on(visit: Visit, work: Work, part: str, share: float):
        return "", step_to(studio, visit, part, share)

    inputs = [part, share, *first.inputs, *second.inputs, *controls.inputs]
    desk.on(go.click, "walk", begin, inputs, status, [first.shown, second.shown, video], stop)
    for name, control in (("walk-part", part), ("walk-share", share)):
        desk.on(control.change, name, go_on, [part, share], status, [video])
