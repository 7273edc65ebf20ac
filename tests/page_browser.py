"""The page of `pipelines.app` in a headless browser: for its tests, and for the pictures of it in docs/."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZE = {"width": 1500, "height": 1000}
TIMEOUT_MS = 60_000
BUTTONS = "button[id$='-go'], button[id$='-stop']"
# The command `pipelines.app` whose sampling takes 10 s at least for 200 steps. On a fast processor it would take 3, and
# could be over before it is stopped.
SLOW_COMMAND = """
import time

from autoencoder.common.commands import run_command
from pipelines import app
from pipelines.page.work import Work

on_step_end = Work.on_step_end


def slowly(*arguments):
    time.sleep(0.05)
    return on_step_end(*arguments)


Work.on_step_end = slowly
run_command(app.main)
"""


def browser_path() -> str | None:
    """The browser of this machine; None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def serving(folder: Path, *flags: str, slowly: bool = False) -> Iterator[tuple[str, subprocess.Popen]]:
    """Run the command with the shipped pipeline on a free port.

    Args:
        folder: for the temporary files of the command, and for what it prints, log.txt.
        flags: of the command.
        slowly: whether sampling takes long enough to be stopped on any processor.

    Yields:
        The page's address, and the process.
    """
    # Often, so that it is soon seen when a browser is closed.
    environment = os.environ | {"TMPDIR": str(folder), "GRADIO_HEARTBEAT_INTERVAL": "0.5", "PYTHONUNBUFFERED": "1"}
    program = ["-c", SLOW_COMMAND] if slowly else ["-m", "pipelines.app"]
    command = [sys.executable, *program, "--pipeline", "shapes", "--port", "0", *flags]
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, f"{line}{(folder / 'log.txt').read_text()}"
        yield found[0], process
    finally:
        process.terminate()
        process.wait(timeout=60)
        process.stdout.close()


@contextmanager
def browsing() -> Iterator["Browser"]:
    """The browser of this machine, headless."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """Somebody who has the page open.

    Args:
        browser: of `browsing`.
        url: the page's address.

    Attributes:
        page: playwright's page.
        requests: addresses that the page has asked for.
        complaints: errors that it wrote to the console.
        pressed: ids of the buttons that were pressed.
    """

    def __init__(self, browser: "Browser", url: str):
        self.page = browser.new_context(viewport=SIZE).new_page()
        self.page.set_default_timeout(TIMEOUT_MS)
        self.requests, self.complaints, self.pressed = [], [], set()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)
        self.page.wait_for_selector("#sample-go")

    def tab(self, name: str) -> None:
        """Turn to a tab."""
        self.page.get_by_role("tab", name=name).click()

    def press(self, button: str) -> None:
        """Press a button, named by its id."""
        self.pressed.add(button)
        self.page.click(f"#{button}")

    def fill(self, label: str, value: float) -> None:
        """Type a number into a field that is seen."""
        field = self.page.locator(f"[aria-label='number input for {label}']:visible")
        field.fill(str(value))
        field.press("Tab")

    def choose(self, group: str, name: str) -> None:
        """Choose one of a group of options."""
        self.page.locator(f"#{group}").get_by_label(name, exact=True).check()

    def upload(self, place: str, path: Path) -> None:
        """Upload a file in a place, named by its id."""
        self.page.set_input_files(f"#{place} input[type=file]", path)

    @contextmanager
    def replies_held_back(self, address: str) -> Iterator[None]:
        """Inside the block the server has the requests for an address, but the page waits for their replies."""
        held = []
        self.page.route(address, lambda route: held.append((route, route.fetch())))
        yield
        for route, reply in held:
            route.fulfill(response=reply)
        self.page.unroute(address)

    def wait_for(self, status: str, text: str) -> str:
        """Wait until the line of this id holds a text; returns the whole line."""
        self.page.locator(f"#{status}", has_text=text).wait_for()
        return self.page.inner_text(f"#{status}")

    def start(self, button: str, status: str, text: str) -> str:
        """Press a button until a line holds a text: gradio ignores it while it takes back what was stopped before."""
        from playwright.sync_api import TimeoutError as TooLate

        for _ in range(10):
            self.press(button)
            with suppress(TooLate):
                self.page.locator(f"#{status}", has_text=text).wait_for(timeout=TIMEOUT_MS / 10)
                break
        return self.wait_for(status, text)

    def wait_for_videos(self, count: int) -> None:
        """Wait until as many videos are seen and play, each at least 256 pixels wide, and none of them is broken."""
        self.page.wait_for_function(
            """count => {
                const seen = [...document.querySelectorAll("video")].filter(video => video.offsetParent);
                const plays = seen.filter(video => video.videoWidth >= 256 && video.offsetWidth >= 256
                    && video.readyState >= 2 && !video.paused && !video.error);
                return plays.length === count && seen.length === count;
            }""",
            arg=count,
        )

    def leave(self) -> None:
        """Close the page."""
        self.page.context.close()
