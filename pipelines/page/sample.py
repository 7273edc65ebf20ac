"""The tab that samples videos of a class, and says what they cost."""

import gradio as gr

from autoencoder.common.cost import Cost, format_bytes, format_flops
from autoencoder.common.pictures import unit_to_uint8
from pipelines.file_names import class_file_names
from pipelines.output import PipelineCost
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
from pipelines.page.studio import SamplingSettings, Studio
from pipelines.page.visits import Visit
from pipelines.page.work import Work

MOST_VIDEOS = 8


def sample(
    studio: Studio, visit: Visit, work: Work, class_name: str, seed: int | None, count: int, settings: SamplingSettings
) -> tuple[list[str], PipelineCost]:
    """Sample videos of a class to files.

    Args:
        studio, visit, work: the pipeline, for whom it works, and the work to be told of.
        class_name, seed, count, settings: as of `Studio.sample`.

    Returns:
        The files, and what they cost.
    """
    out = studio.sample(class_name, seed, settings, work, count)
    folder, name = visit.new_folder("sample"), class_file_names(studio.classes)[studio.pipe.label(class_name)]
    files = [
        show(unit_to_uint8(frames), folder / f"{name}_{int(seed) + index}.mp4")
        for index, frames in enumerate(out.frames)
    ]
    visit.keep_newest(folder)
    return files, out.cost


def cost_table(cost: PipelineCost) -> str:
    """FLOPs, memory and seconds of sampling and of decoding, as a table in Markdown."""

    def row(name: str, part: Cost) -> str:
        memory = "not measured" if part.peak_memory_bytes is None else format_bytes(part.peak_memory_bytes)
        return f"| {name} | {format_flops(part.flops)} | {memory} | {part.seconds:.2f} |"

    head = "| cost | FLOPs | peak memory | seconds |\n|---|---|---|---|"
    return "\n".join([head, row("sampling", cost.sampling), row("decoding", cost.decoding)])


def sample_tab(desk: Desk) -> None:
    """Lay the tab out."""
    studio = desk.studio
    with gr.Row():
        with gr.Column():
            class_name, seed = class_choice(studio), seed_field()
            count = gr.Slider(1, MOST_VIDEOS, 4, step=1, label="Number of videos")
        with gr.Column():
            controls = SamplingControls(studio)
        with gr.Column():
            go, stop = go_and_stop("sample", "Sample")
            status = status_line("sample")
    with gr.Row(elem_classes="together"):
        videos = [
            shown_video(f"video {number + 1}", min_width=330, visible=number < 4) for number in range(MOST_VIDEOS)
        ]

    def work(visit: Visit, work: Work, class_name: str, seed: int | None, count: int, *settings):
        files, cost = sample(studio, visit, work, class_name, seed, int(count), SamplingSettings(*settings))
        places = [
            gr.Video(file, visible=file is not None, label=f"{class_name}, seed {int(seed) + index}")
            for index, file in enumerate([*files, *[None] * (MOST_VIDEOS - len(files))])
        ]
        return cost_table(cost), *places

    desk.on(go.click, "sample", work, [class_name, seed, count, *controls.inputs], status, videos, stop)
