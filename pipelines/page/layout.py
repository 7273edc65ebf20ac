"""The page as a whole: its tabs, its looks, and what is done when a visitor leaves."""

import secrets
from typing import Any

import gradio as gr
from gradio import route_utils
from gradio.route_utils import GradioUploadFile
from gradio_client.utils import is_file_obj_with_meta, is_http_url_like, traverse

from pipelines.page.controls import Desk
from pipelines.page.recombine import recombine_tab
from pipelines.page.reconstruct import reconstruct_tab
from pipelines.page.sample import sample_tab
from pipelines.page.studio import Studio
from pipelines.page.visits import Visits
from pipelines.page.walk import walk_tab

TABS = {"Sample": sample_tab, "Recombine": recombine_tab, "Reconstruct": reconstruct_tab, "Latents": walk_tab}
# Only fonts that the visitor's machine has: others are fetched from elsewhere.
FONTS = ("ui-sans-serif", "system-ui", "sans-serif")
MONO_FONTS = ("ui-monospace", "monospace")
# The label lies above the video, not on it. To leave the queue is no error, as gradio has it; true errors pop up.
CSS = """
.film video { image-rendering: pixelated; padding-top: 32px; box-sizing: border-box; }
[id$="-status"] :is(.error, .clear-status) { display: none; }
[id$="-status"] :is(td, th) { word-break: normal; }
"""
# Work that is stopped before the server has said under which number it waits is cancelled as soon as it has: gradio
# would cancel number null, and the work would go on. (A reset follows its cancel, and names no function.) Videos of one
# row that last equally long are shown at the same moment.
JS = """() => {
  const send = window.fetch, joined = {};
  let cancelled = null;
  window.fetch = async (address, options) => {
    const path = String(address.url ?? address).split("?")[0];
    if (path.endsWith("/queue/join"))
      return (joined[JSON.parse(options.body).fn_index] = send(address, options)).then(reply => reply.clone());
    if (path.endsWith("/cancel") || path.endsWith("/reset")) {
      const body = JSON.parse(options.body), reply = await joined[body.fn_index];
      cancelled = body.event_id ??= reply ? (await reply.clone().json()).event_id : cancelled;
      options = {...options, body: JSON.stringify(body)};
    }
    return send(address, options);
  };
  setInterval(() => {
    for (const row of document.querySelectorAll(".together")) {
      const [first, ...others] = row.querySelectorAll("video");
      for (const other of others)
        if (Math.abs(other.duration - first.duration) < 0.01 && Math.abs(other.currentTime - first.currentTime) > 0.1)
          other.currentTime = first.currentTime;
    }
  }, 1000);
}"""


class Page(gr.Blocks):
    """gradio's, which would fetch an address that is sent as a file, and be it as the value of a slider."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any) -> list[Any]:
        """The values that are given to a function, from those that were sent.

        Raises:
            gr.Error: at an address.
        """
        traverse(inputs, _refuse_address, is_file_obj_with_meta)
        return await super().preprocess_data(block_fn, inputs, *rest)


class OwnUpload(GradioUploadFile):
    """gradio's, which names the folder of an upload by its content alone: whoever uploads the same would share it."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.sha.update(secrets.token_bytes())


route_utils.GradioUploadFile = OwnUpload  # gradio makes them by this name


def _refuse_address(file: dict[str, Any]) -> dict[str, Any]:
    if is_http_url_like(file["path"]):
        raise gr.Error("upload the file itself, not its address", print_exception=False)
    return file


def theme() -> gr.themes.Base:
    """The page's looks."""
    return gr.themes.Default(font=FONTS, font_mono=MONO_FONTS)


def lay_out(studio: Studio, visits: Visits, delete_cache: tuple[int, int]) -> gr.Blocks:
    """The page.

    Args:
        studio: the pipeline.
        visits: the visitors.
        delete_cache: seconds between two sweeps of gradio's files, and the age at which these are removed.
    """
    desk, limits = Desk(studio, visits), studio.limits
    with Page(title="VidTwin Diffusion", analytics_enabled=False, delete_cache=delete_cache, fill_width=True) as page:
        gr.Markdown(
            "# VidTwin Diffusion\n"
            "A video is a *structure* latent S (what is seen) and a *dynamics* latent D (how it moves). Videos of up "
            f"to {limits.seconds:g} s and {limits.megabytes:g} MB may be uploaded. A file is removed once it has been "
            "used, and what is shown to you when you close the page."
        )
        for name, tab in TABS.items():
            with gr.Tab(name, elem_id=f"tab-{name.lower()}"):
                tab(desk)
        page.unload(desk.leave)
    return page
