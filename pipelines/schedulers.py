"""Which diffusers schedulers sample from which prediction, and with which settings.

Every pair listed here passes one test: with a network that knows the answer, the last step returns it. What fails the
test is refused by name rather than left to give pictures that are a little wrong. LCM passes, but is left out: it
assumes a consistency function, which this network is not trained to be.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import SchedulerMixin
from torch import Generator

from autoencoder.common.errors import UserError

# Per setting the values that work, the first of which is set when a scheduler is made here. Settings that a scheduler
# does not have are passed over.
Settings = dict[str, tuple[Any, ...]]

_COMMON: Settings = {
    "num_train_timesteps": (1000,),  # the unit of the network's time
    # Latents are not confined to [-1, 1].
    "clip_sample": (False,),
    "thresholding": (False,),
    # The last step must end at noise 0, not at the least noise of training.
    "final_sigmas_type": ("zero",),
    "set_alpha_to_one": (True,),
}
_FLOW: Settings = _COMMON | {
    "prediction_type": ("flow_prediction",),
    "use_flow_sigmas": (True,),
    "use_dynamic_shifting": (False,),
    "shift_terminal": (None,),
    "invert_sigmas": (False,),
}
# The noise levels that the network was trained on (`generator.objective`); some schedulers default to others.
_DIFFUSION: Settings = _COMMON | {
    "beta_start": (0.0001,),
    "beta_end": (0.02,),
    "beta_schedule": ("linear",),
    "trained_betas": (None,),
    "rescale_betas_zero_snr": (False,),
    "use_flow_sigmas": (False,),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
}
# Its other forms divide by the logarithm of the last noise level, which is 0.
_UNIPC: Settings = {"solver_type": ("bh2",), "predict_x0": (True,), "lower_order_final": (True,)}
# These start the reverse process below noise 1.
_PLAIN_SIGMAS: Settings = {
    "use_karras_sigmas": (False,),
    "use_exponential_sigmas": (False,),
    "use_beta_sigmas": (False,),
}
_DDPM: Settings = {"variance_type": ("fixed_small", "fixed_small_log")}
_DPM_SOLVER: Settings = {"algorithm_type": ("dpmsolver++", "sde-dpmsolver++")}


def _diffusion(prediction_type: str) -> dict[str, Settings]:
    """The solvers of the DDPM process, which take x_0, the noise or the velocity as the network's answer."""
    common = _DIFFUSION | {"prediction_type": (prediction_type,)}
    return {
        "DDIMScheduler": common,
        "DDIMParallelScheduler": common,
        "DDPMScheduler": common | _DDPM,
        "DDPMParallelScheduler": common | _DDPM,
        "DPMSolverMultistepScheduler": common | _DPM_SOLVER,
        "DPMSolverSinglestepScheduler": common | _DPM_SOLVER,
        "UniPCMultistepScheduler": common | _UNIPC,
        "EulerDiscreteScheduler": common,
        "HeunDiscreteScheduler": common,
    }


SCHEDULERS: dict[str, dict[str, Settings]] = {
    "flow": {
        "FlowMatchEulerDiscreteScheduler": _FLOW,
        "FlowMatchHeunDiscreteScheduler": _FLOW,
        "UniPCMultistepScheduler": _FLOW | _UNIPC | _PLAIN_SIGMAS,
    },
    **{kind: _diffusion(kind) for kind in ("sample", "epsilon", "v_prediction")},
}


def check_scheduler(scheduler: SchedulerMixin, prediction_type: str) -> None:
    """Refuse a scheduler that would not end at the network's answer.

    Args:
        scheduler: the scheduler with its settings.
        prediction_type: a key of `SCHEDULERS`, from the transformer's config.

    Raises:
        ValueError: naming the scheduler and those that fit, or the settings that do not and what to set.
    """
    name = type(scheduler).__name__
    wrong = {
        key: accepted
        for key, accepted in _settings(name, prediction_type).items()
        if scheduler.config[key] not in accepted
    }
    if wrong:
        given = ", ".join(f"{key}={scheduler.config[key]!r}" for key in wrong)
        right = ", ".join(f"{key}={accepted[0]!r}" for key, accepted in wrong.items())
        raise UserError(
            f"{name} with {given} does not lead to the answer of a transformer with "
            f"prediction_type={prediction_type!r}: use {name}.from_config(scheduler.config, {right})"
        )


def convert_scheduler(name: str, config: Mapping[str, Any], prediction_type: str) -> SchedulerMixin:
    """A scheduler of another class in place of a pipeline's own.

    Args:
        name: class name, one of `SCHEDULERS[prediction_type]`.
        config: config of the scheduler it replaces; what fits is taken over.
        prediction_type: a key of `SCHEDULERS`, from the transformer's config.

    Raises:
        ValueError: if the scheduler does not fit; the message lists those that do.
    """
    settings = {
        key: config[key] if config.get(key) in accepted else accepted[0]
        for key, accepted in _settings(name, prediction_type).items()
    }
    cls = getattr(diffusers, name)
    for ours, theirs in (("shift", "flow_shift"), ("flow_shift", "shift")):
        if prediction_type == "flow" and ours in _init_keys(cls) and theirs in config:
            settings[ours] = config[theirs]
    return cls.from_config(config, **settings)


def set_timesteps(
    scheduler: SchedulerMixin, num_inference_steps: int, prediction_type: str, device: torch.device
) -> torch.Tensor:
    """Set the schedule, from pure noise to none.

    Returns:
        The times of the network's calls on `device`; solvers of second order call it twice per step but the last.

    Raises:
        ValueError: if the scheduler would not end at noise 0 with that number of steps.
    """
    kwargs = {}
    if prediction_type == "flow" and "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        # Left to itself the scheduler spends its last step between 1/1000 and 0.
        kwargs["sigmas"] = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps)
    scheduler.set_timesteps(num_inference_steps, device=device, **kwargs)
    if type(scheduler).__name__.startswith("DDIM"):
        _check_ddim_ends(scheduler, num_inference_steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else the first step searches the schedule, which waits for the device
    return scheduler.timesteps


def step_arguments(
    scheduler: SchedulerMixin, generator: Generator | list[Generator] | None, eta: float
) -> dict[str, Any]:
    """What `scheduler.step` takes beside the sample.

    Raises:
        ValueError: if `eta` is given and the scheduler has none.
    """
    parameters = inspect.signature(scheduler.step).parameters
    if eta and "eta" not in parameters:
        raise UserError(f"eta={eta} is a setting of DDIM; {type(scheduler).__name__} has none")
    return {key: value for key, value in (("generator", generator), ("eta", eta)) if key in parameters}


def _check_ddim_ends(scheduler: SchedulerMixin, num_inference_steps: int) -> None:
    """DDIM steps by the whole part of 1000 / N whatever its times are; with "trailing" times some N stop short of 0."""
    total = scheduler.config.num_train_timesteps
    if scheduler.timesteps[-1] >= total // num_inference_steps:
        divisors = [count for count in range(1, total + 1) if total % count == 0]
        nearest = min(divisors, key=lambda count: abs(count - num_inference_steps))
        raise UserError(
            f"{type(scheduler).__name__} with timestep_spacing={scheduler.config.timestep_spacing!r} does not reach "
            f"noise 0 in num_inference_steps={num_inference_steps}: take a divisor of {total} such as {nearest}, or "
            "another scheduler"
        )


def _settings(name: str, prediction_type: str) -> Settings:
    """The settings that a scheduler must have, of those that its class has at all."""
    fitting = SCHEDULERS[prediction_type]
    if name not in fitting:
        raise UserError(
            f"{name} does not fit a transformer with prediction_type={prediction_type!r}; "
            f"these do: {', '.join(sorted(fitting))}"
        )
    keys = _init_keys(getattr(diffusers, name))
    return {key: accepted for key, accepted in fitting[name].items() if key in keys}


def _init_keys(cls: type) -> set[str]:
    return set(inspect.signature(cls.__init__).parameters)
