"""Every listed scheduler with a denoiser that knows the answer, and the refusal of the others."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMParallelScheduler,
    DDIMScheduler,
    DDPMParallelScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
)
from tiny_models import max_difference, noise_latents, tiny_pipeline

from generator import VidTwinDiT
from generator.dit import VidTwinDiTOutput
from generator.objective import make_scheduler
from pipelines import VidTwinDiffusionPipeline
from pipelines.schedulers import SCHEDULERS, Solver, check_scheduler, convert_scheduler, step_arguments

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers' schedulers


class Oracle(VidTwinDiT):
    """Knows the clean tokens `answer` and, for a deterministic flow, the noise it started from.

    With `given`, 0 for structure and 1 for dynamics, its answer for the other latent is right only if the given one
    comes clean and with time 0.
    """

    answer: torch.Tensor
    noise: torch.Tensor | None = None
    given: int | None = None

    def forward(self, tokens, timestep, class_labels, return_dict=True):
        repeats = len(tokens) // len(self.answer)
        answer = self.answer.repeat(repeats, 1, 1)
        if self.given is not None:
            is_given = (self.type_ids == 0)[:, None] == (self.given == 0)
            answer = answer + ((tokens - answer) * is_given).abs().amax() + timestep[:, self.given].amax()
            timestep = timestep[:, 1 - self.given]
        if self.config.prediction_type in ("sample", "flow_sample"):
            prediction = answer
        elif self.config.prediction_type != "flow":
            prediction = self.noise_or_velocity(tokens, timestep, answer)
        elif self.noise is not None:
            prediction = self.noise.repeat(repeats, 1, 1) - answer
        else:
            prediction = (tokens - answer) / (timestep[:, None, None] / 1000)
        return VidTwinDiTOutput(sample=prediction)

    def noise_or_velocity(self, tokens, timestep, answer):
        """Of the DDPM process, in which x_t = signal x_0 + spread noise; between two steps log sigma is linear."""
        log_sigmas = (1 / make_scheduler("epsilon").alphas_cumprod.double().to(tokens.device) - 1).sqrt().log()
        low, share = timestep.long(), timestep.double().frac()
        sigma = torch.lerp(log_sigmas[low], log_sigmas[(low + 1).clamp(max=999)], share).exp()[:, None, None]
        signal, spread = (sigma**2 + 1).rsqrt(), sigma * (sigma**2 + 1).rsqrt()
        noise = (tokens.double() - signal * answer) / spread
        is_noise = self.config.prediction_type == "epsilon"
        return (noise if is_noise else signal * noise - spread * answer).float()


LISTED = [(kind, name, {}) for kind, fitting in SCHEDULERS.items() for name in fitting]
VARIANTS = [
    ("flow", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("flow", "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ("flow", "FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
    ("flow", "UniPCMultistepScheduler", {"flow_shift": 3.0, "solver_order": 3}),
    ("flow_sample", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("flow_sample", "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ("flow_sample", "UniPCMultistepScheduler", {"flow_shift": 3.0, "solver_order": 3}),
    ("sample", "DDIMScheduler", {"timestep_spacing": "leading"}),
    ("sample", "DDPMScheduler", {"variance_type": "fixed_small_log"}),
    ("sample", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    ("sample", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("sample", "DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("sample", "EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
    ("sample", "HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    ("epsilon", "DDIMScheduler", {"timestep_spacing": "leading"}),
    ("epsilon", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    ("epsilon", "HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    ("v_prediction", "DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("v_prediction", "EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
]


@pytest.mark.parametrize("num_inference_steps", [1, 2, 9, 50])
@pytest.mark.parametrize("kind, name, settings", LISTED + VARIANTS)
def test_oracle_returns_the_answer(kind, name, settings, num_inference_steps):
    pipe = tiny_pipeline(kind, Oracle)
    fitting = convert_scheduler(name, pipe.scheduler.config, kind)
    pipe.scheduler = type(fitting).from_config(fitting.config, **settings)
    expected, noise = noise_latents(pipe, 2, seed=3), noise_latents(pipe, 2, seed=4)
    pipe.transformer.answer = pipe.transformer.layout.pack(pipe.transformer.normalize(expected))
    if not settings.get("stochastic_sampling"):
        pipe.transformer.noise = pipe.transformer.layout.pack(noise)
    for guidance_scale, eta in ((1.0, 0.0), (5.0, float(name.startswith("DDIM")))):
        out = pipe(
            [0, 2], num_inference_steps, guidance_scale, generator=0, latents=noise, output_type="latent", eta=eta
        )
        assert max_difference(out.frames, expected) < 1e-4


@pytest.mark.parametrize("name", ["structure", "dynamics"])
@pytest.mark.parametrize("kind, scheduler, settings", LISTED)
def test_oracle_returns_the_other_half_of_a_given_latent(kind, scheduler, settings, name):
    pipe = tiny_pipeline(kind, Oracle, independent_times=True)
    pipe.scheduler = convert_scheduler(scheduler, pipe.scheduler.config, kind)
    expected, noise = noise_latents(pipe, 2, seed=3), noise_latents(pipe, 2, seed=4)
    pipe.transformer.answer = pipe.transformer.layout.pack(pipe.transformer.normalize(expected))
    pipe.transformer.noise = pipe.transformer.layout.pack(noise)
    pipe.transformer.given = ["structure", "dynamics"].index(name)
    out = pipe([0, 2], 5, generator=0, latents=noise, output_type="latent", **{name: expected}).frames
    assert torch.equal(getattr(out, name), getattr(expected, name))
    assert max_difference(out, expected) < 1e-4


@pytest.mark.parametrize("strength", [0.05, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("kind, name, settings", LISTED + VARIANTS)
def test_oracle_returns_the_answer_from_data_that_is_noised_in_part(kind, name, settings, strength):
    torch.manual_seed(0)
    pipe = tiny_pipeline(kind, Oracle)
    fitting = convert_scheduler(name, pipe.scheduler.config, kind)
    scheduler = type(fitting).from_config(fitting.config, **settings)
    answer, data, noise = (pipe.transformer.layout.pack(noise_latents(pipe, 2, seed)) for seed in (3, 4, 5))
    pipe.transformer.answer = answer
    solver = Solver(scheduler, 10, kind, strength)
    whole = len(Solver(scheduler, 10, kind).timesteps)
    solver = Solver(scheduler, 10, kind, strength)
    assert len(solver.timesteps) / whole == pytest.approx(max(strength, 0.1), abs=0.06)
    tokens = solver.noised(data, noise)
    level = float(solver.timesteps[0]) / 1000
    assert (tokens - data).norm() > 0.5 * level * (tokens - noise).norm(), "as much noise as the first time says"
    for index, timestep in enumerate(solver.timesteps):
        prediction = pipe.transformer(solver.scale_input(tokens, timestep), timestep.expand(2), None).sample
        tokens = solver.step(index, prediction, tokens, **step_arguments(scheduler, None, 0.0))
    torch.testing.assert_close(tokens, answer, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind, name, settings", LISTED)
def test_the_network_first_sees_unit_noise(kind, name, settings):
    """Whatever scale the scheduler keeps its state in."""
    pipe = tiny_pipeline(kind)
    pipe.scheduler = convert_scheduler(name, pipe.scheduler.config, kind)
    inputs, noise = [], noise_latents(pipe, 1)
    pipe.transformer.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    pipe(0, 2, guidance_scale=1, latents=noise, output_type="latent")
    assert torch.allclose(inputs[0], pipe.transformer.layout.pack(noise), atol=1e-3)


ALL_COUNTS = (*range(1, 61), 61, 103, 487, 600, 1000)
SOME_COUNTS = (1, 2, 3, 6, 7, 11, 28, 36, 59, 61, 103)


def answers(kind, name, settings, counts, answer=0.7, noise=-1.3):
    """What a scheduler makes of the right predictions for one number, for each count of steps."""
    fitting = convert_scheduler(name, make_scheduler(kind).config, kind)
    scheduler = type(fitting).from_config(fitting.config, **settings)
    log_sigmas = (1 / make_scheduler("epsilon").alphas_cumprod.double() - 1).sqrt().log()
    arguments = step_arguments(scheduler, [torch.Generator().manual_seed(0)], 0.0)
    results = {}
    for count in counts:
        solver = Solver(scheduler, count, kind)
        assert len(solver.timesteps) in (count, 2 * count - 1) and solver.timesteps.min() >= 0
        state = torch.tensor([[noise * float(getattr(scheduler, "init_noise_sigma", 1.0))]])
        for index, timestep in enumerate(solver.timesteps):
            inputs = solver.scale_input(state, timestep)
            low, share = int(timestep), float(timestep) % 1
            sigma = torch.lerp(log_sigmas[min(low, 999)], log_sigmas[min(low + 1, 999)], share).exp()
            signal, spread = (sigma**2 + 1).rsqrt(), sigma * (sigma**2 + 1).rsqrt()
            found = (inputs - signal * answer) / spread  # the noise, for the present state
            prediction = {
                "sample": torch.full_like(inputs, answer),
                "flow_sample": torch.full_like(inputs, answer),
                "epsilon": found,
                "v_prediction": signal * found - spread * answer,
                "flow": torch.full_like(inputs, noise - answer),
            }[kind]
            state = solver.step(index, prediction.float(), state, **arguments)
        results[count] = state.item()
    return results


@pytest.mark.parametrize(
    "kind, name, settings",
    # The other one draws its noise anew in every step, which this denoiser does not know.
    [variant for variant in LISTED + VARIANTS if "stochastic_sampling" not in variant[2]],
)
def test_every_count_of_steps_ends_at_the_answer(kind, name, settings):
    counts = ALL_COUNTS if (kind, name) in (("sample", "DDIMScheduler"), ("epsilon", "DDPMScheduler")) else SOME_COUNTS
    found = answers(kind, name, settings, counts)
    assert {count: value for count, value in found.items() if abs(value - 0.7) > 1e-3} == {}


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDIMParallelScheduler"])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_ddim_keeps_to_the_path_between_noise_and_answer(name, spacing):
    """With an answer that knows the noise, too, every state is the mixture that its time says."""
    config = make_scheduler("sample").config
    scheduler = getattr(diffusers, name).from_config(config, timestep_spacing=spacing)
    answer, noise = 0.7, -1.3
    for count in (7, 13, 28, 36):
        solver = Solver(scheduler, count, "sample")
        first = scheduler.alphas_cumprod[solver.timesteps[0]]
        state = first.sqrt() * answer + (1 - first).sqrt() * noise
        for index, timestep in enumerate(solver.timesteps):
            level = scheduler.alphas_cumprod[timestep]
            off = abs(state - (level.sqrt() * answer + (1 - level).sqrt() * noise))
            assert off < 1e-4, (count, index)
            state = solver.step(index, torch.tensor([[answer]]), state.reshape(1, 1))
        assert abs(state - answer) < 1e-5
        assert scheduler.num_inference_steps == count


@pytest.mark.parametrize("count", [1, 2, 3, 10, 30, 50, 62])
def test_what_ddim_of_diffusers_can_do_is_its_own_result(count):
    own = make_scheduler("sample")
    own.set_timesteps(count)
    solver = Solver(make_scheduler("sample"), count, "sample")
    assert torch.equal(solver.timesteps, own.timesteps)
    generator = torch.Generator().manual_seed(0)
    state = theirs = torch.randn(1, 4, 2, generator=generator)
    for index, timestep in enumerate(own.timesteps):
        prediction = torch.randn(1, 4, 2, generator=generator)
        theirs = own.step(prediction, timestep, theirs, return_dict=False)[0]
        state = solver.step(index, prediction, state)
        assert torch.equal(state, theirs)


def test_more_steps_than_the_scheduler_has_times_are_refused():
    pipe = tiny_pipeline("sample")
    with pytest.raises(ValueError, match="num_inference_steps=1001: DDIMScheduler has 1000 times, so it takes 1 to"):
        pipe(0, 1001)


STOCHASTIC = ["ddpm", "ddpm parallel", "ddim", "ddim parallel", "sde multistep", "sde singlestep", "flow"]


def stochastic(name: str) -> tuple[VidTwinDiffusionPipeline, dict]:
    kind, cls, settings, arguments = {
        "ddpm": ("sample", DDPMScheduler, {}, {}),
        "ddpm parallel": ("sample", DDPMParallelScheduler, {}, {}),
        "ddim": ("sample", DDIMScheduler, {}, {"eta": 1.0}),
        "ddim parallel": ("sample", DDIMParallelScheduler, {}, {"eta": 1.0}),
        "sde multistep": ("sample", DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}, {}),
        "sde singlestep": ("sample", DPMSolverSinglestepScheduler, {"algorithm_type": "sde-dpmsolver++"}, {}),
        "flow": ("flow", FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": True}, {}),
    }[name]
    pipe = tiny_pipeline(kind)
    fitting = convert_scheduler(cls.__name__, pipe.scheduler.config, kind)
    pipe.scheduler = cls.from_config(fitting.config, **settings)
    return pipe, arguments


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_video_does_not_depend_on_its_batch(name):
    pipe, arguments = stochastic(name)
    arguments |= {"num_inference_steps": 4, "guidance_scale": 2.0}
    together = pipe([2, 0, 1], generator=10, **arguments).frames
    for index, class_id in enumerate([2, 0, 1]):
        alone = pipe(class_id, generator=10 + index, **arguments).frames
        assert np.abs(together[index] - alone[0]).max() < 1e-3
        listed = pipe(class_id, generator=[torch.Generator().manual_seed(10 + index)], **arguments).frames
        assert np.array_equal(alone, listed)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_noise_has_the_same_bits_in_any_batch(name):
    """A network that answers 0 leaves nothing but noise."""
    pipe, arguments = stochastic(name)
    for parameter in pipe.transformer.parameters():
        torch.nn.init.zeros_(parameter)
    arguments |= {"num_inference_steps": 3, "output_type": "latent"}
    seen: list[torch.Tensor] = []

    def keep(pipe, index, timestep, kwargs):
        seen.append(kwargs["latents"])

    pipe([0, 1, 2], generator=5, callback_on_step_end=keep, **arguments)
    together, seen = seen, []
    pipe(1, generator=6, callback_on_step_end=keep, **arguments)
    for step, alone in enumerate(seen):
        assert torch.equal(together[step][1:2], alone)
    seen = []
    pipe(1, generator=7, callback_on_step_end=keep, **arguments)
    assert not any(torch.equal(together[step][1:2], alone) for step, alone in enumerate(seen[:-1]))


@pytest.mark.parametrize(
    "kind, scheduler",
    [
        ("flow", DDIMScheduler(prediction_type="sample", clip_sample=False)),
        ("flow", DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)),
        ("flow_sample", DDIMScheduler(prediction_type="sample", clip_sample=False)),
        ("sample", FlowMatchEulerDiscreteScheduler()),
        ("sample", DEISMultistepScheduler(prediction_type="sample")),
        ("sample", EulerAncestralDiscreteScheduler(prediction_type="sample")),
        ("sample", LCMScheduler(prediction_type="sample", clip_sample=False)),
    ],
)
def test_other_schedulers_are_refused_by_name(kind, scheduler):
    pipe = tiny_pipeline(kind)
    pipe.scheduler = scheduler
    listed = ", ".join(sorted(SCHEDULERS[kind]))
    with pytest.raises(ValueError, match=f"{type(scheduler).__name__} does not fit.*these do: {listed}"):
        pipe(0)


@pytest.mark.parametrize(
    "kind, name, given, setting",
    [
        ("sample", "DDIMScheduler", {"clip_sample": True}, "clip_sample=False"),
        ("sample", "DDIMScheduler", {"prediction_type": "epsilon"}, "prediction_type='sample'"),
        ("sample", "DDIMScheduler", {"thresholding": True}, "thresholding=False"),
        ("sample", "DDIMScheduler", {"set_alpha_to_one": False}, "set_alpha_to_one=True"),
        ("sample", "DDPMScheduler", {"variance_type": "fixed_large"}, "variance_type='fixed_small'"),
        (
            "sample",
            "HeunDiscreteScheduler",
            {"beta_start": 0.00085, "beta_end": 0.012},
            "beta_start=0.0001, beta_end=0.02",
        ),
        ("sample", "EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}, "final_sigmas_type='zero'"),
        ("sample", "UniPCMultistepScheduler", {"solver_type": "bh1"}, "solver_type='bh2'"),
        ("flow", "UniPCMultistepScheduler", {"use_karras_sigmas": True}, "use_karras_sigmas=False"),
        ("flow", "FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas=False"),
        ("flow", "FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 500}, "num_train_timesteps=1000"),
    ],
)
def test_settings_that_lose_the_answer_are_refused_by_name(kind, name, given, setting):
    fitting = convert_scheduler(name, make_scheduler(kind).config, kind)
    scheduler = type(fitting).from_config(fitting.config, **given)
    with pytest.raises(ValueError, match=rf"{name} with .*use {name}.from_config\(scheduler.config, {setting}\)"):
        check_scheduler(scheduler, kind)
    check_scheduler(convert_scheduler(name, scheduler.config, kind), kind)


@pytest.mark.parametrize("name", SCHEDULERS["flow"])
def test_a_model_of_x0_takes_the_steps_of_its_velocity(name):
    """Whether the network predicts the velocity or the x_0 that it leads to, every state is the same."""
    config, generator = make_scheduler("flow").config, torch.Generator().manual_seed(0)
    predictions = torch.randn(11, 1, 4, 2, generator=generator)
    states = dict.fromkeys(("flow", "flow_sample"), torch.randn(1, 4, 2, generator=generator))
    solvers = {kind: Solver(convert_scheduler(name, config, kind), 6, kind) for kind in states}
    assert torch.equal(solvers["flow"].timesteps, solvers["flow_sample"].timesteps)
    for index, velocity in enumerate(predictions[: len(solvers["flow"].timesteps)]):
        x0 = states["flow"] - solvers["flow"].scheduler.sigmas[index] * velocity
        for kind, prediction in (("flow", velocity), ("flow_sample", x0)):
            states[kind] = solvers[kind].step(index, prediction, states[kind])
        torch.testing.assert_close(*states.values(), rtol=1e-4, atol=1e-5)


def test_a_scheduler_made_from_another_keeps_what_fits():
    own = DDIMScheduler(prediction_type="sample", clip_sample=False, timestep_spacing="trailing")
    heun = convert_scheduler("HeunDiscreteScheduler", own.config, "sample")
    assert (heun.config.beta_start, heun.config.beta_end, heun.config.timestep_spacing) == (0.0001, 0.02, "trailing")
    shifted = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert convert_scheduler("UniPCMultistepScheduler", shifted.config, "flow").config.flow_shift == 3.0
    assert convert_scheduler("FlowMatchHeunDiscreteScheduler", shifted.config, "flow").config.shift == 3.0
    assert convert_scheduler("UniPCMultistepScheduler", shifted.config, "flow_sample").config.flow_shift == 3.0


def test_every_listed_scheduler_that_draws_noise_takes_generators():
    for name in {name for fitting in SCHEDULERS.values() for name in fitting}:
        cls = getattr(diffusers, name)
        if "randn" in inspect.getsource(cls.step):
            assert "generator" in inspect.signature(cls.step).parameters
