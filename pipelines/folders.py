"""Where a pipeline lies: any folder, or one that is installed with this package, by its name; and its models."""

import json
from pathlib import Path

from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.common.presets import nearest
from autoencoder.common.run_folder import RunFolder

SHIPPED = Path(__file__).parent / "shipped"
INDEX = "model_index.json"
MODELS = {"vae": "AutoencoderVidTwin", "transformer": "VidTwinDiT"}  # by the name of their part of a pipeline


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


def model_folder(source: str | Path, part: str) -> Path:
    """The folder of the trained model that a command's --init-from names.

    Args:
        source: folder of a run that has ended, of a pipeline or of the model itself; or the name of a shipped pipeline.
        part: "vae" or "transformer".

    Raises:
        MissingFileError: if there is no such model.
        UserError: if a config.json there is damaged.
    """
    folder = Path(source)
    if not folder.exists() and str(folder) in pretrained_names():
        folder = pretrained(str(folder))
    run = RunFolder(folder)
    for place in (run.model, run.pipeline / part, folder / part, folder):
        if _class_in(place) == MODELS[part]:
            return place
    if run.config.is_file():
        why = "is a run that left none: one of the other stage, or one that has to end first, by --resume"
    else:
        why = "neither is one nor holds one: give the folder of a run, of a pipeline or of a saved model, or the name "
        why += f"of a shipped pipeline ({', '.join(pretrained_names()) or 'there are none'})"
    raise MissingFileError(f"init_from={source}: there is no {MODELS[part]}: {folder} {why}")


def _class_in(folder: Path) -> str | None:
    """The class of the model that is saved in a folder; None where there is none."""
    config = folder / "config.json"
    if not config.is_file():
        return None
    try:
        return json.loads(config.read_text()).get("_class_name")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{config} is damaged: {str(error).splitlines()[0]}") from error
