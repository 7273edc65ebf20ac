"""Loading a pipeline from its folder."""

from pathlib import Path

from autoencoder.common.device import resolve_device
from autoencoder.common.errors import MissingFileError
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline
from pipelines.schedulers import convert_scheduler


def load_pipeline(folder: str | Path, device: str = "auto", scheduler: str | None = None) -> VidTwinDiffusionPipeline:
    """Load a pipeline, and replace its scheduler if another one is asked for.

    Args:
        folder: the pipeline's folder: pipeline/ of a run of `python -m generator.train`.
        device: such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one.
        scheduler: class name of a diffusers scheduler in place of the pipeline's own.

    Raises:
        MissingFileError: if the folder holds no pipeline.
        UserError: if the scheduler does not fit, or there is no such device.
    """
    where = resolve_device(device)
    if not (Path(folder) / "model_index.json").is_file():
        raise MissingFileError(
            f"{folder} is no pipeline folder: it must hold model_index.json and the folders vae, transformer and "
            "scheduler; `python -m generator.train` makes one"
        )
    pipe = VidTwinDiffusionPipeline.from_pretrained(folder).to(where)
    if scheduler is not None:
        pipe.scheduler = convert_scheduler(scheduler, pipe.scheduler.config, pipe.transformer.config.prediction_type)
    return pipe
