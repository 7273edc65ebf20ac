"""The pipeline on fake CUDA: no operation mixes devices, and no step waits for the device."""

import pytest
from fakecuda import FakeCuda
from tiny_models import tiny_pipeline

from pipelines.schedulers import SCHEDULERS, convert_scheduler

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers' schedulers

# What a network answers makes no difference to how a scheduler works on it, but for its kind.
CASES = [("flow", name) for name in SCHEDULERS["flow"]] + [
    ("v_prediction", name) for name in SCHEDULERS["v_prediction"]
]
CASES += [("sample", "DDIMScheduler"), ("epsilon", "DDIMScheduler")]
PIPELINE = "pipelines/pipeline_vidtwin.py "
# Once per call, however many steps there are.
ONCE = (
    "autoencoder/common/cost.py measure: torch.cuda.synchronize",  # the clock, at the beginning and at the end
    PIPELINE + "__call__: denoiser = Denoiser(",  # the labels
    PIPELINE + "<genexpr>: randn_tensor(",  # noise of CPU generators, so that a seed means the same everywhere
    PIPELINE + "__call__: if not torch.stack([part.isfinite()",
    "pipelines/conditioning.py __init__: self._is_structure",
    "generator/dit.py <genexpr>: mean, std",
)
STEP = "pipelines/schedulers.py step: return self.scheduler.step("
# In every step of these schedulers, in diffusers: the noise of CPU generators; UniPC solves its 2 x 2 system there.
IN_STEPS = {"DDPMScheduler": (STEP,), "DDPMParallelScheduler": (STEP,), "UniPCMultistepScheduler": (STEP,)}
FRAMES = PIPELINE + "__call__: frames = self.video_processor.postprocess_video("


def on_cuda(kind, scheduler=None, **settings):
    pipe = tiny_pipeline(kind, **settings)
    if scheduler is not None:
        pipe.scheduler = convert_scheduler(scheduler, pipe.scheduler.config, kind)
    return pipe.to("cuda")


@pytest.mark.parametrize("kind, scheduler", CASES)
def test_no_step_waits_for_the_device(kind, scheduler):
    with FakeCuda() as gpu:
        pipe = on_cuda(kind, scheduler)
        gpu.waits.clear()
        out = pipe([0, 1], 4, 3.0, generator=0, output_type="latent")
    assert out.frames.structure.device.type == "cuda"
    gpu.assert_waits_only(*ONCE, *IN_STEPS.get(scheduler, ()))
    assert max(gpu.waits[wait] for wait in gpu.waits if wait[0].startswith(ONCE)) <= 4
