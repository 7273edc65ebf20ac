"""How many samples of moving shapes the oracle confirms."""

from autoencoder.common.pictures import unit_to_uint8
from autoencoder.metrics.oracle import confirmed, oracle
from pipelines import VidTwinDiffusionPipeline


def oracle_share(
    pipe: VidTwinDiffusionPipeline, videos_per_class: int, num_inference_steps: int, guidance_scale: float
) -> dict[str, float]:
    """Sample every class with the seeds 0, 1, 2, ... and let the oracle look.

    Returns:
        Share of the samples whose shape, whose motion and of whose class (`both`) it confirms, in [0, 1].
    """
    pipe.set_progress_bar_config(disable=True)
    names = [pipe.transformer.config.id2label[str(label)] for label in range(pipe.transformer.config.num_classes)]
    verdicts = []
    for label in range(len(names)):
        seed = label * videos_per_class
        out = pipe(label, num_inference_steps, guidance_scale, videos_per_class, generator=seed)
        verdicts += [oracle(video) for video in unit_to_uint8(out.frames)]
    shares = confirmed(verdicts, [name for name in names for _ in range(videos_per_class)])
    return {name: float(share) for name, share in shares.items()}
