"""What the tabs share: how work hangs on a button, and the controls that more than one tab has."""

import html
import re
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from autoencoder.common.errors import UserError
from pipelines.page.studio import SamplingSettings, Studio
from pipelines.page.visits import Visits
from pipelines.page.work import Work, WorkStopped

MODEL = "model"  # all work on the pipeline waits in one queue
MOST_STEPS = 200
MOST_GUIDANCE = 10.0
HEIGHT = 330  # of a video with its label, in pixels
UPLOAD_HEIGHT = 140
MARKS = re.compile(r"[\\`*_\[\]$~|]")  # of Markdown amid a line


class Desk:
    """Takes the visitors' work, a piece at a time.

    Args:
        studio: the pipeline.
        visits: the visitors.
    """

    def __init__(self, studio: Studio, visits: Visits):
        self.studio, self.visits = studio, visits

    def on(
        self,
        listener: Callable[..., Any],
        name: str,
        function: Callable[..., Sequence[Any]],
        inputs: Sequence[gr.components.Component],
        status: gr.Markdown,
        outputs: Sequence[gr.components.Component] = (),
        stop: gr.Button | None = None,
        spent: gr.components.Component | None = None,
    ) -> None:
        """Run a function on an event, in the queue, with its progress and its end in the line of `status`.

        Args:
            listener: of the event, such as `button.click`.
            name: of this work, among all of the page.
            function: called as (visit, work, *values of the inputs); returns the text of the line and the values of the
                outputs. A `UserError` becomes the text, and leaves the outputs as they are.
            inputs, outputs: controls.
            status: the line.
            stop: button that ends the work.
            spent: control that is emptied in the end, because the file in it is removed.
        """
        emptied = [] if spent is None else [spent]
        event = listener(
            self._running(name, function, len(outputs), len(emptied)),
            list(inputs),
            [status, *outputs, *emptied],
            concurrency_id=MODEL,
            show_progress_on=[status],
            trigger_mode="always_last" if stop is None else "once",
            api_visibility="private",
        )
        if stop is not None:
            stop.click(
                self._stopping(name, len(emptied)),
                outputs=[status, *emptied],
                cancels=[event],
                queue=False,
                show_progress="hidden",
                api_visibility="private",
            )

    def forget(self, request: gr.Request) -> None:
        """What happens when a visitor takes an upload back: the file is removed."""
        self.visits.of(request.session_hash).drop_uploads()

    def leave(self, request: gr.Request) -> None:
        """What happens when a visitor closes the page."""
        self.visits.end(request.session_hash)

    def _running(
        self, name: str, function: Callable[..., Sequence[Any]], num_outputs: int, num_emptied: int
    ) -> Callable[..., Any]:
        """What an event does when its turn comes; gradio fills in the first two arguments."""

        def run(request: gr.Request, progress=gr.Progress(), *values):  # noqa: B008
            visit = self.visits.of(request.session_hash)
            shown = [gr.skip()] * num_outputs
            visit.work[name] = work = _work(progress)
            try:
                with self.studio.turn:
                    work.check()
                    found = function(visit, work, *values)
                    work.check()  # what was stopped at its end shows nothing more
                text, *shown = found
            except WorkStopped:
                text = "Stopped."
            except UserError as error:
                text = sentence(error)
            finally:
                work.end()
                if visit.work.get(name) is work:  # else the next one has begun
                    del visit.work[name]
                if visit.is_over:  # he has left amid the work, which may have written more since
                    visit.end()
            return _row(text, *shown, *[None] * num_emptied)

        return run

    def _stopping(self, name: str, num_emptied: int) -> Callable[[gr.Request], Any]:
        """What a stop button does; what still waits in the queue is taken out of it by gradio."""

        def stop(request: gr.Request):
            visit = self.visits.of(request.session_hash)
            if (work := visit.work.get(name)) is not None:
                work.stop()
                work.wait()
            if num_emptied:
                visit.drop_uploads()
            return _row("Stopped.", *[None] * num_emptied)

        return stop


def _row(*values: Any) -> Any:
    """Values as gradio takes them: a tuple, but a single one by itself."""
    return values if len(values) > 1 else values[0]


def _work(progress: gr.Progress) -> Work:
    return Work(lambda done, total, what: progress(done / total, desc=f"{what}, {done} of {total}"))


def sentence(error: UserError) -> str:
    """What an error says, as one sentence of Markdown; file names in it stay text."""
    text = html.escape(" ".join(str(error).split()), quote=False).rstrip(".")
    text = MARKS.sub(r"\\\g<0>", text)
    return f"**{text}.**"


class SamplingControls:
    """The controls of `SamplingSettings`."""

    def __init__(self, studio: Studio):
        default = SamplingSettings()
        self.steps = gr.Slider(1, MOST_STEPS, default.steps, step=1, label="Steps")
        self.structure, self.dynamics = (
            gr.Slider(0, MOST_GUIDANCE, value, step=0.1, label=f"Guidance of {latent}")
            for latent, value in (
                ("structure", default.structure_guidance),
                ("dynamics", default.dynamics_guidance),
            )
        )
        self.scheduler = gr.Dropdown(studio.schedulers, value=studio.schedulers[0], label="Scheduler")

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The controls, in the order of the fields of `SamplingSettings`."""
        return [self.steps, self.structure, self.dynamics, self.scheduler]


def class_choice(studio: Studio, index: int = 0) -> gr.Dropdown:
    """A choice of one class, at first that of the index."""
    return gr.Dropdown(studio.classes, value=studio.classes[index % len(studio.classes)], label="Class")


def seed_field(**options: Any) -> gr.Number:
    """A field for a seed, whose range `Studio.sample` checks."""
    return gr.Number(0, label="Seed", precision=0, **options)


def shown_video(label: str, **options: Any) -> gr.Video:
    """A place for a video that plays by itself, over and over."""
    plays = {"autoplay": True, "loop": True, "interactive": False, "buttons": ["download"]}
    return gr.Video(label=label, height=HEIGHT, elem_classes="film", **plays, **options)


def upload_field(name: str, **options: Any) -> gr.File:
    """A place for a video that is uploaded; it is not played, for few formats play in a browser."""
    return gr.File(label="Upload a video", height=UPLOAD_HEIGHT, elem_id=f"{name}-upload", **options)


def status_line(name: str, **options: Any) -> gr.Markdown:
    """The line that says how far work is, and how it ended."""
    return gr.Markdown(elem_id=f"{name}-status", min_height=72, **options)


def go_and_stop(name: str, text: str) -> tuple[gr.Button, gr.Button]:
    """A button for long work, and the one that stops it."""
    with gr.Row():
        go = gr.Button(text, variant="primary", elem_id=f"{name}-go")
        stop = gr.Button("Stop", variant="stop", elem_id=f"{name}-stop")
    return go, stop
