"""Where a pipeline lies: any folder, or one that is installed with this package, by its name."""

from pathlib import Path

from autoencoder.common.errors import MissingFileError
from autoencoder.common.presets import nearest

SHIPPED = Path(__file__).parent / "shipped"
INDEX = "model_index.json"


def pretrained_names() -> list[str]:
    """The pipelines that are installed with this package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{INDEX}"))


def pretrained(name: str) -> Path:
    """The folder of a small trained pipeline that is installed with this package.

    `VidTwinDiffusionPipeline.from_pretrained(pretrained("shapes"))` loads it; nothing is downloaded. Its autoencoder
    alone is in the folder vae.

    Raises:
        MissingFileError: if there is none of that name; the message lists those there are, the nearest first.
    """
    names = pretrained_names()
    if name not in names:
        there = ", ".join(names) or "none"
        raise MissingFileError(f"no pipeline {name!r} is shipped{nearest(name, names)}; there are {there}")
    return SHIPPED / name


def pipeline_folder(pipeline: str | Path) -> Path:
    """The folder that a command's --pipeline names: one that exists, or else the shipped pipeline of that name.

    Raises:
        MissingFileError: if a folder of that name holds no pipeline, or there is neither.
    """
    folder, names = Path(pipeline), pretrained_names()
    if (folder / INDEX).is_file():
        return folder
    if not folder.exists() and str(folder) in names:
        return pretrained(str(folder))
    message = (
        f"{folder} is no pipeline folder: it must hold {INDEX} and the folders vae, transformer and scheduler; "
        "`python -m generator.train` makes one"
    )
    if str(folder) in names:
        raise MissingFileError(f"{message}. It hides the shipped pipeline of that name: run the command elsewhere")
    raise MissingFileError(f"{message}. Shipped ones are known by name: {', '.join(names) or 'there are none'}")
