"""The page of `pipelines.app`, with every button pressed in a real browser."""

import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from page_browser import BUTTONS, Visitor, browser_path, browsing, serving
from video_files import make_video

pytest.importorskip("gradio", reason='the page needs gradio: pip install "vidtwin[app]"')
pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright: pip install playwright")
pytestmark = pytest.mark.skipif(
    browser_path() is None, reason="there is no browser: apt-get install chromium, or install Google Chrome"
)
LIMITS = ("--max-seconds", "10", "--max-megabytes", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def browser():
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(folder, browser):
    with serving(folder, *LIMITS, slowly=True) as (url, _):
        yield lambda: Visitor(browser, url)


def files_with(folder: Path, content: bytes) -> list[Path]:
    """Files of the command that hold what was uploaded."""
    return [path for path in folder.rglob("*") if path.is_file() and content in path.read_bytes()]


def wait_until(condition, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def test_every_button_does_what_it_says(page, folder, tmp_path):
    visitor = page()
    press_sample(visitor)
    press_recombine(visitor)
    press_reconstruct(visitor, folder, tmp_path)
    press_latents(visitor, folder, tmp_path)
    buttons = visitor.page.locator(BUTTONS).evaluate_all("buttons => buttons.map(button => button.id)")
    assert visitor.pressed == set(buttons) and len(buttons) == 10
    assert {urlsplit(url).hostname for url in visitor.requests if not url.startswith(("data:", "blob:"))} == {
        "127.0.0.1"
    }
    assert visitor.complaints == []
    assert list(folder.rglob("*.mp4"))
    visitor.leave()
    assert wait_until(lambda: not list(folder.rglob("*.mp4"))), "files of a visitor who has left"
    assert "Traceback" not in (folder / "log.txt").read_text()


def begin_long_work(visitor: Visitor) -> None:
    visitor.fill("Number of videos", 8)
    visitor.fill("Steps", 200)
    visitor.press("sample-go")
    visitor.wait_for("sample-status", "of 200")


def press_sample(visitor: Visitor) -> None:
    begin_long_work(visitor)
    visitor.press("sample-stop")
    visitor.wait_for("sample-status", "Stopped.")
    visitor.wait_for_videos(0)

    visitor.fill("Number of videos", 3)
    visitor.fill("Steps", 4)
    visitor.fill("Guidance of dynamics", 1)
    text = visitor.start("sample-go", "sample-status", "sampling")
    assert "GFLOP" in visitor.wait_for("sample-status", "decoding"), text
    visitor.wait_for_videos(3)
    assert visitor.page.get_by_text("circle_horizontal, seed 2").is_visible()


def press_recombine(visitor: Visitor) -> None:
    visitor.tab("Recombine")
    visitor.press("exchange-go")
    visitor.wait_for_videos(6)
    visitor.choose("recombine-A-kind", "a sample")
    visitor.fill("Steps", 4)
    visitor.choose("given-latent", "dynamics")
    visitor.press("given-go")
    visitor.wait_for_videos(8)
    assert visitor.page.get_by_text("with structure sampled for circle_vertical").is_visible()
    visitor.fill("Steps", 200)
    for name in ("exchange", "given"):
        visitor.press(f"{name}-go")
        visitor.press(f"{name}-stop")
        visitor.wait_for("recombine-status", "Stopped.")
    visitor.choose("recombine-A-kind", "an uploaded video")
    visitor.start("exchange-go", "recombine-status", "there is no video for clip A: upload one")


def press_reconstruct(visitor: Visitor, folder: Path, tmp_path: Path) -> None:
    visitor.tab("Reconstruct")
    visitor.press("reconstruct-go")
    visitor.wait_for("reconstruct-status", "there is no video: upload one first")
    (tmp_path / "notes.mp4").write_text("no video, but a text")
    long = make_video(tmp_path / "long.mp4", count=30, fps=2)
    wide = make_video(tmp_path / "wide.avi", count=40, height=46, width=90, codec="mpeg4")
    for path, sentence in (
        (tmp_path / "notes.mp4", "notes.mp4 cannot be read as a video: Invalid data found when processing input."),
        (long, "long.mp4 lasts 15.0 s, and up to 10 s are taken."),
    ):
        visitor.upload("reconstruct-upload", path)
        assert visitor.wait_for("reconstruct-status", path.name) == sentence
        assert files_with(folder, path.read_bytes()) == []
    visitor.upload("reconstruct-upload", wide)
    visitor.wait_for("reconstruct-status", "90 x 46, 40 frames at 25 per second")
    assert files_with(folder, wide.read_bytes()) != []
    visitor.press("reconstruct-go")
    text = visitor.wait_for("reconstruct-status", "latent numbers")
    assert "PSNR at 90 x 46" in text and text.count(" dB") == 6
    visitor.wait_for_videos(4)
    assert files_with(folder, wide.read_bytes()) == [], "an upload that was reconstructed"

    visitor.upload("reconstruct-upload", wide)
    visitor.wait_for("reconstruct-status", "40 frames at 25 per second")
    visitor.press("reconstruct-go")
    visitor.press("reconstruct-stop")
    visitor.wait_for("reconstruct-status", "Stopped.")
    assert wait_until(lambda: not files_with(folder, wide.read_bytes())), "an upload whose reconstruction was stopped"


def press_latents(visitor: Visitor, folder: Path, tmp_path: Path) -> None:
    visitor.tab("Latents")
    visitor.choose("walk-A-kind", "an uploaded video")
    film = make_video(tmp_path / "film.mkv", count=75)
    visitor.upload("walk-A-upload", film)
    visitor.wait_for_videos(1)
    assert files_with(folder, film.read_bytes()) == [], "an upload that was read"
    visitor.press("walk-go")
    visitor.wait_for_videos(3)
    source = "() => document.querySelector('#walk-video video').src"
    shown = [visitor.page.evaluate(source)]
    visitor.fill("Share of the way", 1)
    visitor.page.wait_for_function(f"before => ({source})() !== before", arg=shown[-1])
    visitor.wait_for_videos(3)
    shown.append(visitor.page.evaluate(source))
    visitor.choose("walk-part", "both")
    visitor.page.wait_for_function(f"before => ({source})() !== before", arg=shown[-1])
    visitor.press("walk-go")
    visitor.press("walk-stop")
    visitor.wait_for("walk-status", "Stopped.")


def test_a_file_that_is_too_large_is_refused_in_a_sentence(page, folder, tmp_path):
    visitor = page()
    visitor.tab("Reconstruct")
    (tmp_path / "large.mp4").write_bytes(b"large" * 300_000)
    visitor.upload("reconstruct-upload", tmp_path / "large.mp4")
    visitor.page.get_by_text("exceed the maximum allowed size of 1").wait_for()
    assert files_with(folder, b"largelarge") == []


def test_a_second_visitor_waits_and_may_leave_the_queue(page):
    first, second = page(), page()
    begin_long_work(first)
    second.press("sample-go")
    second.wait_for("sample-status", "queue")
    second.press("sample-stop")
    second.wait_for("sample-status", "Stopped.")
    first.press("sample-stop")
    first.wait_for("sample-status", "Stopped.")
    second.start("sample-go", "sample-status", "decoding")
    second.wait_for_videos(4)
    assert first.complaints == second.complaints == []


def test_work_that_is_stopped_before_its_number_is_known_does_not_run(page):
    first, second = page(), page()
    begin_long_work(first)
    with second.page.expect_response("**/reset"), second.replies_held_back("**/queue/join*"):
        second.press("sample-go")
        second.press("sample-stop")
        second.wait_for("sample-status", "Stopped.")
    first.press("sample-stop")
    first.wait_for("sample-status", "Stopped.")
    first.fill("Steps", 4)
    first.start("sample-go", "sample-status", "decoding")  # it would come after the other one's
    assert "Stopped." in second.page.inner_text("#sample-status") and second.page.locator("video[src]").count() == 0
    assert first.complaints == second.complaints == []


def test_a_signal_ends_the_page_amid_work_and_leaves_nothing(browser, tmp_path):
    with serving(tmp_path, slowly=True) as (url, process):
        visitor = Visitor(browser, url)
        begin_long_work(visitor)
        process.terminate()
        assert process.wait(timeout=60) == 128 + 15
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]
