"""The documentation as a site, as `make docs` builds it: every link leads somewhere, nothing comes from elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import PAGES, ROOT

import vidtwin

pytest.importorskip("mkdocs", reason='mkdocs is not installed: pip install -e ".[docs]"')
COPIED = ("mkdocs.yml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "docs")
LINKED = ("autoencoder", "generator", "pipelines", "benchmarks", "vidtwin")


def build(root: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(root / "mkdocs.yml"), "--site-dir", site]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_and_can_be_read_without_the_network(site):
    names = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    pages = {f"{page.removesuffix('.md')}.html" for page in PAGES if page != "README.md"}
    assert pages | {"index.html", "CHANGELOG.html", "benchmarks/results/index.html"} <= names
    for name in names:
        text = (site / name).read_text()
        loaded = re.findall(r"""<(?:script|img|link rel="stylesheet")[^>]*?(?:src|href)="([^"]+)""", text)
        assert loaded and not [address for address in loaded if "//" in address], name
    assert not [path for path in site.rglob("*.css") if re.search(r"url\(.?(https?:)?//", path.read_text())]


def test_every_public_name_has_its_place(site):
    text = "".join(path.read_text() for path in sorted((site / "docs/api").glob("*.html")))
    for name in set(vidtwin.__all__) - {"__version__"}:
        assert re.search(rf'<h2 id="[\w.]+\.{name}"', text), name


def test_broken_links_end_the_build(tmp_path):
    for name in COPIED:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    for name in LINKED:
        (tmp_path / name).symlink_to(ROOT / name)
    with (tmp_path / "docs/data.md").open("a") as page:
        page.write("\n[a](nowhere.md), [b](training.md#nowhere), ![c](nowhere.png), [d](../README.md#data)\n")
    done = build(tmp_path, tmp_path / "site")
    told = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert done.returncode == 1 and len(told) == 4 and all("'docs/data.md'" in line for line in told)
    for link in ("'nowhere.md'", "anchor '#nowhere'", "'nowhere.png'", "anchor '#data'"):
        assert any(link in line for line in told), link
