"""A source of latents: a real clip, an uploaded video, or a sample."""

from dataclasses import dataclass

import gradio as gr
import torch

from autoencoder.common.errors import UserError
from autoencoder.latents import VidTwinLatents
from pipelines.page.controls import Desk, class_choice, seed_field, shown_video, upload_field
from pipelines.page.films import read_clip, show
from pipelines.page.studio import SamplingSettings, Studio
from pipelines.page.visits import Visit
from pipelines.page.work import Work

REAL, UPLOAD, SAMPLE = "a real clip", "an uploaded video", "a sample"


@dataclass(frozen=True)
class Source:
    """Where the latents of a clip come from.

    Attributes:
        name: of the control that chose it, such as "A".
        kind: `REAL`, `UPLOAD` or `SAMPLE`.
        class_name: of a real clip or a sample.
        number: of a real clip among those of its class, from 1 on.
        seed: of a sample.
    """

    name: str
    kind: str
    class_name: str
    number: int | None
    seed: int | None

    def take(
        self, studio: Studio, visit: Visit, work: Work, settings: SamplingSettings
    ) -> tuple[VidTwinLatents, torch.Tensor]:
        """The latents (B = 1), and the clip uint8 (T, S, S, 3): as it was read, or decoded where it is a sample.

        Raises:
            UserError: if nothing was uploaded, or there is no such clip or seed.
            WorkStopped: if the work was stopped.
        """
        if self.kind == SAMPLE:
            latents = studio.sample(self.class_name, self.seed, settings, work, output_type="latent").frames
            return latents, studio.decode(latents)[0]
        if self.kind == REAL:
            clip = studio.real_clip(self.class_name, self.number)
        elif (clip := visit.clips.get(self.name)) is None:
            raise UserError(f"there is no video for clip {self.name[-1]}: upload one, or choose another kind of clip")
        return studio.encode(clip), clip


def take_upload(studio: Studio, visit: Visit, name: str, path: str) -> str:
    """Read an uploaded video's first clip for a control, and remove the file.

    Returns:
        The file that shows the clip.

    Raises:
        UserError: if it is no such video; the control then has no clip.
    """
    visit.clips.pop(name, None)
    path = visit.take_upload(path)
    try:
        visit.clips[name] = read_clip(path, studio.vae, studio.limits)
    finally:
        visit.drop_upload(path)
    folder = visit.new_folder(f"upload-{name}")
    shown = show(visit.clips[name], folder / "clip.mp4")
    visit.keep_newest(folder)
    return shown


class SourceControls:
    """The controls that choose a `Source`, and the place where its clip is shown.

    Args:
        desk: takes the work of reading an upload.
        name: of the control, whose last letter names the clip.
        index: class that is chosen at first.
        status: line for what is wrong with an upload.
    """

    def __init__(self, desk: Desk, name: str, index: int, status: gr.Markdown):
        studio, self.name = desk.studio, name
        kinds = [SAMPLE, UPLOAD] if studio.real_clips is None else [REAL, UPLOAD, SAMPLE]
        self.kind = gr.Radio(kinds, value=kinds[0], label=f"Clip {name[-1]} is", elem_id=f"{name}-kind")
        with gr.Row():
            self.class_name = class_choice(studio, index=index)
            self.number = gr.Number(1, label="Number of the clip", precision=0, visible=kinds[0] == REAL, min_width=120)
            self.seed = seed_field(visible=kinds[0] == SAMPLE, min_width=120)
        self.upload = upload_field(name, visible=False)
        self.shown = shown_video(f"clip {name[-1]}")
        self.kind.change(
            _visible_for,
            self.kind,
            [self.class_name, self.number, self.seed, self.upload],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )

        def read(visit: Visit, work: Work, path: str | None):
            if path is None:
                raise UserError("nothing was uploaded")
            return "", take_upload(studio, visit, name, path)

        desk.on(self.upload.upload, f"{name}-upload", read, [self.upload], status, [self.shown], spent=self.upload)

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The controls, in the order of the fields of `Source` after its name."""
        return [self.kind, self.class_name, self.number, self.seed]


def _visible_for(kind: str) -> list[dict]:
    shown = [kind != UPLOAD, kind == REAL, kind == SAMPLE, kind == UPLOAD]
    return [gr.update(visible=is_shown) for is_shown in shown]
