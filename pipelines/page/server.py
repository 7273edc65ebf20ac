"""Laying the page out, and serving it."""

import errno
import ipaddress
import os
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from autoencoder.common.errors import UserError
from autoencoder.common.precision import resolve_precision
from pipelines.app import AppConfig

if TYPE_CHECKING:
    import gradio

    from pipelines.page.studio import Studio
    from pipelines.page.visits import Visits

# gradio reads these when it is imported, or later on wherever it looks for them.
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_SHARE": "False"}
QUEUE = 32  # visitors who may wait
SWEEP_S, AGE_S = 60, 3600  # gradio removes files this old, whoever left them


def serve(config: AppConfig) -> None:
    """Load the pipeline, and serve the page until a signal ends it; then all files of the visitors are removed.

    Raises:
        UserError: if the port or the host cannot be had, or there is no such pipeline or device.
    """
    port = free_port(config.host, config.port)
    if warning := exposure(config.host):
        print(warning, file=sys.stderr, flush=True)
    with TemporaryDirectory(prefix="vidtwin-page-") as folder:
        os.environ |= QUIET | {"GRADIO_TEMP_DIR": folder}

        from pipelines.page.visits import Visits

        studio, visits = make_studio(config), Visits(Path(folder))
        page = launch(studio, visits, config, port)
        try:
            print(f"open {page.local_url} in a browser; Ctrl-C ends the page", flush=True)
            page.block_thread()
        finally:
            visits.end_all()
            with studio.turn:  # torch aborts the process if it ends amid some work
                page.close(verbose=False)


def make_studio(config: AppConfig) -> "Studio":
    """Load the pipeline of a page.

    Raises:
        UserError: if there is no such pipeline or device.
    """
    import torch

    from pipelines.checkpoint import load_pipeline
    from pipelines.page.films import Limits
    from pipelines.page.studio import Studio

    pipe = load_pipeline(config.pipeline, config.device)
    if resolve_precision(config.precision, pipe.device) == "bf16":
        pipe.to(dtype=torch.bfloat16)
    return Studio(pipe, Limits(config.max_seconds, config.max_megabytes))


def launch(studio: "Studio", visits: "Visits", config: AppConfig, port: int) -> "gradio.Blocks":
    """Serve the page in threads of this process; GRADIO_TEMP_DIR is the folder of the visits."""
    from pipelines.page.layout import CSS, JS, lay_out, theme

    page = lay_out(studio, visits, (SWEEP_S, AGE_S))
    page.queue(default_concurrency_limit=1, max_size=QUEUE, api_open=False)
    page.launch(
        server_name=f"[{config.host}]" if ":" in config.host else config.host,  # IPv6 as in an address
        server_port=port,
        share=False,
        max_file_size=round(config.max_megabytes * 2**20),
        prevent_thread_lock=True,
        quiet=True,
        theme=theme(),
        css=CSS,
        js=JS,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        ssr_mode=False,
    )
    return page


def exposure(host: str) -> str:
    """A warning for a host that other machines reach; empty for one that is this machine alone."""
    try:
        is_own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_own = host == "localhost"
    return "" if is_own else f"warning: whoever reaches {host} can use the page, there is no password"


def free_port(host: str, port: int) -> int:
    """The port to listen at, which was free just now; any free one for 0.

    Raises:
        UserError: if it is taken, or the host is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            hint = "; --port 0 takes any free port" if error.errno == errno.EADDRINUSE else ""
            raise UserError(f"--host {host} --port {port}: {error.strerror or error}{hint}") from error
        return probe.getsockname()[1]
