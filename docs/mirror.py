"""A hook of mkdocs: the site has the paths of the repository, so that a link works on the site and in a clone alike."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SHOWN = ("*.md", "CITATION.cff", "LICENSE", "docs/**/*.md", "docs/*.png", "docs/*.svg", "docs/*.css")
SHOWN += ("docs/*.webp", "benchmarks/results/*", "pipelines/shipped/*/*.md", "pipelines/shipped/*/*.yaml")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All pages and what they link to, each under its path in the repository, beside the files of the theme.

    mkdocs itself takes only what lies in docs_dir, and by the path from there.
    """
    root = Path(config.config_file_path).parent
    names = sorted({path.relative_to(root).as_posix() for pattern in SHOWN for path in root.glob(pattern)})
    theme = [file for file in files if file.src_dir != config.docs_dir]
    return Files(theme + [File.generated(config, name, abs_src_path=str(root / name)) for name in names])
