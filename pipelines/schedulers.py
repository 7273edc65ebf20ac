"""The diffusers schedulers that fit each prediction type, with the settings that they need.

Every pair listed here passes one test: with an oracle that always predicts the true x_0, the last step returns x_0.
Others are refused by name, rather than giving slightly wrong videos. LCM passes, but is left out: it assumes a
consistency function, which this network is not trained to be.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import SchedulerMixin
from torch import Generator

from autoencoder.common.errors import UserError
from generator.config import DDPM_KINDS, FLOW_KINDS
from pipelines.without_waiting import without_waiting

# The values that work, by setting; `convert_scheduler` sets the first one. Settings that a scheduler does not have are
# ignored.
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
_FLOW_SOLVERS: dict[str, Settings] = {
    "FlowMatchEulerDiscreteScheduler": _FLOW,
    "FlowMatchHeunDiscreteScheduler": _FLOW,
    "UniPCMultistepScheduler": _FLOW | _UNIPC | _PLAIN_SIGMAS,
}
_DDPM: Settings = {"variance_type": ("fixed_small", "fixed_small_log")}
_DPM_SOLVER: Settings = {"algorithm_type": ("dpmsolver++", "sde-dpmsolver++")}


def _diffusion(prediction_type: str) -> dict[str, Settings]:
    """The solvers of the DDPM process, for a network that predicts x_0, the noise or the velocity."""
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
    **dict.fromkeys(FLOW_KINDS, _FLOW_SOLVERS),
    **{kind: _diffusion(kind) for kind in DDPM_KINDS},
}


def check_scheduler(scheduler: SchedulerMixin, prediction_type: str) -> None:
    """Refuse a scheduler whose last step would not return the x_0 that the network predicts.

    Args:
        scheduler: the scheduler with its settings.
        prediction_type: a key of `SCHEDULERS`, from the transformer's config.

    Raises:
        UserError: naming the scheduler and those that fit, or the settings that do not fit and what to set.
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
        config: config of the scheduler that it replaces; values that fit are kept.
        prediction_type: a key of `SCHEDULERS`, from the transformer's config.

    Raises:
        UserError: if the scheduler does not fit; the message lists those that do.
    """
    settings = {
        key: config[key] if config.get(key) in accepted else accepted[0]
        for key, accepted in _settings(name, prediction_type).items()
    }
    cls = getattr(diffusers, name)
    for ours, theirs in (("shift", "flow_shift"), ("flow_shift", "shift")):
        if prediction_type in FLOW_KINDS and ours in _init_keys(cls) and theirs in config:
            settings[ours] = config[theirs]
    return cls.from_config(config, **settings)


class Solver:
    """A scheduler prepared to go from pure noise to data in a number of steps.

    Its tables stay on the CPU: a step uses their values as plain numbers, and the host never waits for the device to
    find its place in the schedule.

    Args:
        scheduler: one that `check_scheduler` accepts; its timesteps are set.
        num_inference_steps: steps; solvers of second order make two calls in each.
        prediction_type: a key of `SCHEDULERS`, from the transformer's config.
        strength: share of the steps to take, the last ones, at least one; below 1 the state to start from is `noised`
            data, not noise.

    Attributes:
        timesteps: (N,) on the CPU, the times of the network's calls; solvers of second order call it twice per step
            but the last.

    Raises:
        UserError: if the scheduler has fewer times than steps.
    """

    def __init__(
        self, scheduler: SchedulerMixin, num_inference_steps: int, prediction_type: str, strength: float = 1.0
    ):
        total = scheduler.config.num_train_timesteps
        if prediction_type in DDPM_KINDS and num_inference_steps > total:
            raise UserError(
                f"num_inference_steps={num_inference_steps}: {type(scheduler).__name__} has {total} times, so it takes "
                f"1 to {total} steps"
            )
        _set_timesteps(scheduler, num_inference_steps, prediction_type)
        self.scheduler = scheduler
        self._sigmas = scheduler.sigmas.tolist() if prediction_type == "flow_sample" else None
        self._strides = _ddim_strides(scheduler) if type(scheduler).__name__.startswith("DDIM") else None
        # As in the image-to-image pipelines of diffusers.
        steps_left_out = num_inference_steps - max(1, round(strength * num_inference_steps))
        self._first_call = steps_left_out * getattr(scheduler, "order", 1)
        self.timesteps = scheduler.timesteps[self._first_call :]
        if self._first_call and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(self._first_call)

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """The state (B, N, D) to start from, of noise N(0, 1)."""
        return noise * getattr(self.scheduler, "init_noise_sigma", 1.0)

    def noised(self, tokens: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The state (B, N, D) to start from, of data and noise N(0, 1) at the first of `timesteps`."""
        times = self.timesteps[:1].expand(len(tokens))
        if hasattr(self.scheduler, "scale_noise"):
            return self.scheduler.scale_noise(tokens, times, noise)
        return self.scheduler.add_noise(tokens, noise, times)

    def scale_input(self, tokens: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Scale the solver's state (B, N, D) to the network's input, at a time of `timesteps`."""
        if not hasattr(self.scheduler, "scale_model_input"):
            return tokens
        return self.scheduler.scale_model_input(tokens, timestep)

    def step(self, index: int, prediction: torch.Tensor, tokens: torch.Tensor, **arguments) -> torch.Tensor:
        """The state (B, N, D) after call `index` of the network; `arguments` are those of `step_arguments`.

        The schedulers of a flow take the velocity. Where x_0 is predicted it is (x_t - x_0) / sigma, without the floor
        that the loss has, so that the last step ends at the prediction.
        """
        if self._sigmas is not None:
            prediction = (tokens - prediction) / self._sigmas[self._first_call + index]
        with self._stride(self._first_call + index), without_waiting(tokens.device):
            return self.scheduler.step(prediction, self.timesteps[index], tokens, **arguments, return_dict=False)[0]

    @contextmanager
    def _stride(self, index: int) -> Iterator[None]:
        """Inside the block DDIM steps exactly from this time to the next one.

        Its stride is num_train_timesteps // num_inference_steps; setting the latter to a fraction gives any stride.
        """
        if self._strides is None:
            yield
            return
        steps = self.scheduler.num_inference_steps
        self.scheduler.num_inference_steps = Fraction(self.scheduler.config.num_train_timesteps, self._strides[index])
        try:
            yield
        finally:
            self.scheduler.num_inference_steps = steps


def _set_timesteps(scheduler: SchedulerMixin, num_inference_steps: int, prediction_type: str) -> None:
    kwargs = {"device": "cpu"}
    if prediction_type in FLOW_KINDS and "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        # Left to itself the scheduler spends its last step between 1/1000 and 0.
        kwargs["sigmas"] = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps)
    scheduler.set_timesteps(num_inference_steps, **kwargs)
    if scheduler.timesteps[-1] < 0:
        # "trailing" times are counted by np.arange, which for some numbers (61, 103, ...) rounds to one time too many.
        scheduler.set_timesteps(num_inference_steps * (1 - 1e-12), **kwargs)
        scheduler.num_inference_steps = num_inference_steps
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else the first step searches the schedule


def _ddim_strides(scheduler: SchedulerMixin) -> list[int] | None:
    """The stride of DDIM after each time that leads to the next time, and in the end to noise 0.

    Its own stride is the whole part of num_train_timesteps / num_inference_steps, whatever its times are. None if that
    is right up to the rounding of the times, by one, and ends at noise 0; then the results are those of diffusers.
    """
    times = scheduler.timesteps.tolist()
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    strides = [time - following for time, following in zip(times, [*times[1:], -1], strict=True)]
    if times[-1] < stride and all(abs(exact - stride) <= 1 for exact in strides[:-1]):
        return None
    return strides


def step_arguments(
    scheduler: SchedulerMixin, generator: Generator | list[Generator] | None, eta: float
) -> dict[str, Any]:
    """The further arguments of `scheduler.step`, of those that it has.

    Raises:
        UserError: if `eta` is not 0 and the scheduler has none.
    """
    parameters = inspect.signature(scheduler.step).parameters
    if eta and "eta" not in parameters:
        raise UserError(f"eta={eta} is a setting of DDIM; {type(scheduler).__name__} has none")
    return {key: value for key, value in (("generator", generator), ("eta", eta)) if key in parameters}


def _settings(name: str, prediction_type: str) -> Settings:
    """The accepted values of the settings that the scheduler's class has."""
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
