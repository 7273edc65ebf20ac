"""The command `pipelines.app`: its settings, whom the page speaks to, and where gradio is used."""

import importlib.util
import re
import socket
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_pipeline

from autoencoder.common.errors import MissingFileError, UserError
from pipelines import app
from pipelines.page import server
from pipelines.page.films import Limits
from pipelines.page.studio import Studio
from pipelines.page.visits import Visits

ROOT = Path(__file__).parents[1]


def test_the_page_speaks_to_this_machine_alone(tmp_path, monkeypatch, capsys):
    spoken_to, connect = [], socket.socket.connect

    def noted(self, address):
        spoken_to.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noted)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    port = server.free_port("127.0.0.1", 0)
    studio = Studio(tiny_pipeline(), Limits())
    page = server.launch(studio, Visits(tmp_path), app.AppConfig(Path("shapes"), max_megabytes=3), port)
    try:
        assert page.local_url == f"http://127.0.0.1:{port}/"
        assert page.share is False and page.share_url is None and page.analytics_enabled is False
        assert page.max_file_size == 3 * 2**20 and page.delete_cache == (server.SWEEP_S, server.AGE_S)
        limits = {fn.concurrency_limit for fn in page.fns.values() if fn.queue and fn.concurrency_id == "model"}
        assert limits <= {1, "default"} and page._queue.default_concurrency_limit == 1
        with pytest.raises(UserError, match=rf"--host 127.0.0.1 --port {port}: .*; --port 0 takes any free port"):
            server.free_port("127.0.0.1", port)
        with pytest.raises(UserError, match=r"--host 203.0.113.9 --port 0: \D+$"):
            server.free_port("203.0.113.9", 0)
    finally:
        page.close(verbose=False)
    assert spoken_to and {address[0] for address in spoken_to} == {"127.0.0.1"}
    assert "http" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "host, warned", [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True)]
)
def test_a_host_that_others_reach_is_warned_of(host, warned):
    warning = server.exposure(host)
    assert (warning == f"warning: whoever reaches {host} can use the page, there is no password") is warned
    assert bool(warning) is warned


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--port 70000", "port must be in 0 to 65535, got 70000"),
        ("--max-seconds 0", "max_seconds must be positive, got 0.0"),
        ("--max-megabytes -1", "max_megabytes must be positive, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        app.main(["--pipeline", "shapes", *flags.split()])


def test_bf16_is_a_precision_of_the_page():
    studio = server.make_studio(app.AppConfig(Path("shapes"), precision="bf16", device="cpu"))
    assert studio.pipe.transformer.dtype == studio.vae.dtype == torch.bfloat16
    clip = studio.real_clip("circle_horizontal", 1)
    assert studio.decode(studio.encode(clip)).shape == (1, *clip.shape)
    with pytest.raises(MissingFileError, match="nowhere is no pipeline folder"):
        server.make_studio(app.AppConfig(Path("nowhere")))


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape('not installed: pip install "vidtwin[app]"')):
        app.main(["--pipeline", "shapes"])


def test_gradio_is_imported_in_the_room_of_the_page_alone():
    files = [path for package in ("autoencoder", "generator", "pipelines") for path in (ROOT / package).rglob("*.py")]
    users = [path for path in files if re.search(r"^\s*(import|from) gradio", path.read_text(), re.M)]
    assert users and {path.parent.name for path in users} == {"page"}
