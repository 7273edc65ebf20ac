"""Take the pictures of the page that lie in docs/: `python tests/app_pictures.py`."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from page_browser import ROOT, Visitor, browsing, serving

from autoencoder.data.shapes import Shapes
from autoencoder.data.video_io import write_video
from autoencoder.whole_videos.made_video import MadeVideo

SETTLED_MS = 2500  # until the videos of a row play together


def take(visitor: Visitor, name: str) -> None:
    """Take a picture of the whole page."""
    visitor.page.wait_for_timeout(SETTLED_MS)
    visitor.page.mouse.move(0, 0)
    visitor.page.screenshot(path=ROOT / "docs" / f"app_{name}.png", full_page=True)


def film(path: Path) -> Path:
    """A longer and larger video of a moving shape."""
    frames = MadeVideo(Shapes(num_frames=24, size=96, split="val"), 8).frames()
    write_video(path, [frame.pixels.numpy() for frame in frames], 8)
    return path


def main() -> None:
    """Take a picture of every tab, after it has done its work."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as (url, _), browsing() as browser:
        visitor = Visitor(browser, url)
        visitor.page.get_by_label("Class").locator("visible=true").click()
        visitor.page.get_by_role("option", name="ring_vertical").click()
        visitor.press("sample-go")
        visitor.wait_for("sample-status", "decoding")
        visitor.wait_for_videos(4)
        take(visitor, "sample")
        visitor.tab("Recombine")
        visitor.press("exchange-go")
        visitor.wait_for_videos(6)
        visitor.press("given-go")
        visitor.wait_for_videos(8)
        take(visitor, "recombine")
        visitor.tab("Reconstruct")
        visitor.upload("reconstruct-upload", film(Path(folder) / "film.mp4"))
        visitor.wait_for("reconstruct-status", "frames at 8 per second")
        visitor.press("reconstruct-go")
        visitor.wait_for("reconstruct-status", "latent numbers")
        visitor.wait_for_videos(4)
        take(visitor, "reconstruct")
        visitor.tab("Latents")
        visitor.press("walk-go")
        visitor.wait_for_videos(3)
        take(visitor, "latents")
        if visitor.complaints:
            sys.exit(f"the page complained: {visitor.complaints}")


if __name__ == "__main__":
    main()
