"""The command `pipelines.app`: its settings, whom the page speaks to, and where gradio is used."""

import importlib.util
import json
import math
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import httpx
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


@contextmanager
def serving(folder: Path, host: str = "127.0.0.1") -> Iterator[gr.Blocks]:
    """Serve a page of a pipeline with random weights; GRADIO_TEMP_DIR is the folder."""
    config = app.AppConfig(Path("shapes"), host=host, max_megabytes=3)
    studio, port = Studio(tiny_pipeline(), Limits()), server.free_port(host, 0)
    page = server.launch(studio, Visits(folder), config, port)
    try:
        yield page
    finally:
        page.close(verbose=False)


def test_the_page_speaks_to_this_machine_alone(tmp_path, monkeypatch, capsys):
    spoken_to, connect = [], socket.socket.connect

    def noted(self, address):
        spoken_to.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noted)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with serving(tmp_path) as page:
        port = page.server_port
        assert page.local_url == f"http://127.0.0.1:{port}/"
        assert page.share is False and page.share_url is None and page.analytics_enabled is False
        assert page.max_file_size == 3 * 2**20 and page.delete_cache == (server.SWEEP_S, server.AGE_S)
        limits = {fn.concurrency_limit for fn in page.fns.values() if fn.queue and fn.concurrency_id == "model"}
        assert limits <= {1, "default"} and page._queue.default_concurrency_limit == 1
        with pytest.raises(UserError, match=rf"--host 127.0.0.1 --port {port}: .*; --port 0 takes any free port"):
            server.free_port("127.0.0.1", port)
        with pytest.raises(UserError, match=r"--host 203.0.113.9 --port 0: \D+$"):
            server.free_port("203.0.113.9", 0)
    assert spoken_to and {address[0] for address in spoken_to} == {"127.0.0.1"}
    assert "http" not in capsys.readouterr().out


def test_an_address_in_the_place_of_a_file_is_fetched_for_no_control(tmp_path, monkeypatch):
    fetched = []

    async def fetch(url: str, cache_dir: str) -> str:
        fetched.append(url)
        return str(tmp_path / "fetched")

    monkeypatch.setattr(gr.processing_utils, "async_ssrf_protected_download", fetch)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    sent = {"path": "http://203.0.113.9/huge.mp4", "meta": {"_type": "gradio.FileData"}}
    with serving(tmp_path) as page, httpx.Client(base_url=f"{page.local_url}gradio_api/queue/") as visitor:
        events = {index: fn for index, fn in page.fns.items() if fn.queue and fn.inputs}
        assert {"file", "radio", "slider"} <= {block.get_block_name() for fn in events.values() for block in fn.inputs}
        for index, fn in events.items():
            body = {"data": [sent] * len(fn.inputs), "fn_index": index, "session_hash": f"visitor{index}"}
            visitor.post("join", json=body).raise_for_status()
            lines = visitor.get("data", params={"session_hash": f"visitor{index}"}, timeout=60).text.splitlines()
            messages = [json.loads(line.removeprefix("data: ")) for line in lines if line]
            (end,) = (message for message in messages if message["msg"] == "process_completed")
            assert not end["success"] and end["output"]["error"] == "upload the file itself, not its address"
    assert fetched == []


def test_what_two_visitors_upload_at_once_are_two_files(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with serving(tmp_path) as page, httpx.Client(base_url=f"{page.local_url}gradio_api/") as visitor:
        sent = [visitor.post("upload", files={"files": ("film.mp4", b"the same")}).json() for _ in range(2)]
        (first,), (second,) = (map(Path, paths) for paths in sent)
        assert first != second and first.name == second.name == "film.mp4" and tmp_path in first.parents
        assert first.read_bytes() == second.read_bytes() == b"the same"


def test_a_page_is_served_at_an_address_of_ipv6(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    try:
        server.free_port("::1", 0)
    except UserError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with serving(tmp_path, "::1") as page:
        assert page.local_url == f"http://[::1]:{page.server_port}/"
        assert httpx.get(page.local_url).is_success


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
        ("--max-seconds 0", "max_seconds must be positive and finite, got 0.0"),
        ("--max-megabytes -1", "max_megabytes must be positive and finite, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        app.main(["--pipeline", "shapes", *flags.split()])


def test_limits_are_finite():
    with pytest.raises(UserError, match="max_megabytes must be positive and finite, got inf"):
        app.AppConfig(Path("shapes"), max_megabytes=math.inf)


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
