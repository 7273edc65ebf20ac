"""Loading a pipeline from its folder."""

from pathlib import Path

from autoencoder.common.device import resolve_device
from pipelines.folders import pipeline_folder
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline
from pipelines.schedulers import convert_scheduler


def load_pipeline(pipeline: str | Path, device: str = "auto", scheduler: str | None = None) -> VidTwinDiffusionPipeline:
    """Load a pipeline, and replace its scheduler if another one is asked for.

    Args:
        pipeline: the pipeline's folder, such as pipeline/ of a run of `python -m generator.train`, or the name of a
            shipped one.
        device: such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one.
        scheduler: class name of a diffusers scheduler in place of the pipeline's own.

    Raises:
        MissingFileError: if there is no such pipeline.
        UserError: if the scheduler does not fit, or there is no such device.
    """
    where = resolve_device(device)
    pipe = VidTwinDiffusionPipeline.from_pretrained(pipeline_folder(pipeline)).to(where)
    if scheduler is not None:
        pipe.scheduler = convert_scheduler(scheduler, pipe.scheduler.config, pipe.transformer.config.prediction_type)
    return pipe
