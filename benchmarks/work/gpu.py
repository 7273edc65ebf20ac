"""The work of `python -m benchmarks.gpu`."""

import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

from autoencoder import AutoencoderVidTwin, VidTwinLatents
from autoencoder.common.cost import count_flops, format_bytes, format_flops, measure, training_flops
from autoencoder.common.device import resolve_device
from autoencoder.common.errors import UserError
from autoencoder.common.files import atomic_path
from benchmarks.gpu import GpuConfig
from benchmarks.report import environment, write_json
from benchmarks.training_steps import DenoiserStep, Step, make_step
from benchmarks.work.memory import count_presets
from generator.objective import make_scheduler
from pipelines import VidTwinDiffusionPipeline
from pipelines.stages import read_presets

# Dense bf16 products with fp32 sums, in FLOP/s, of NVIDIA's data sheets; the first name that is part of the card's.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}
LIBRARIES = ("torch", "diffusers", "accelerate", "lightning", "triton", "flash-attn")
TEST_SECONDS = 240
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one part.

    Attributes:
        part: its name.
        mode: "eager" or "compiled".
        batch_size: samples.
        seconds: median of the rounds; None if the part ended before it was measured.
        flops: FLOPs of one round; a training step counts as three forwards.
        mfu: FLOPs per second over the card's peak; None where that is not known.
        peak_memory_bytes: the allocator's peak on CUDA; None on other devices.
        counted_memory_bytes: what `benchmarks.memory` counts for the same.
        error: why the part ended early; None if it did not.
        note: further remarks.
    """

    part: str
    mode: str = "eager"
    batch_size: int | None = None
    seconds: float | None = None
    flops: int | None = None
    mfu: float | None = None
    peak_memory_bytes: int | None = None
    counted_memory_bytes: int | None = None
    error: str | None = None
    note: str | None = None


class Bench:
    """The parts of the benchmark, on one device."""

    def __init__(self, config: GpuConfig, device: torch.device):
        self.config, self.device = config, device
        self.peak = known_peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self.warm_ups, self.rounds, self.steps = (1, 1, 2) if config.quick else (2, 10, 20)
        self.autoencoder, self.denoiser = ("tiny", "shapes") if config.quick else ("base", "ucf101")

    def parts(self) -> Iterator[tuple[str, str, Callable[[str], Row]]]:
        """Name, mode and function of every part, in order."""
        modes = ("eager",) if self.device.type != "cuda" else ("eager", "compiled")
        for mode in modes:
            yield f"training step, autoencoder {self.autoencoder}", mode, self.autoencoder_step
            yield f"training step, DiT {self.denoiser}", mode, self.denoiser_step
            yield f"encoding, autoencoder {self.autoencoder}", mode, self.encoding
            yield f"decoding, autoencoder {self.autoencoder}", mode, self.decoding
            yield f"sampling, DiT {self.denoiser}", mode, self.sampling
        yield f"training step, autoencoder {self.autoencoder}, with its GAN and LPIPS", "eager", self.adversarial_step

    def autoencoder_step(self, mode: str) -> Row:
        """A step of stage one without GAN and LPIPS, whose FLOPs are not counted."""
        return self._training_step("autoencoder", mode, gan=False, lpips_weight=0.0)

    def adversarial_step(self, mode: str) -> Row:
        """A step of stage one with all terms of the preset, for its memory."""
        return self._training_step("autoencoder", mode)

    def denoiser_step(self, mode: str) -> Row:
        """A step of stage two."""
        return self._training_step("generator", mode)

    def _training_step(self, stage: str, mode: str, **changes) -> Row:
        preset = self.autoencoder if stage == "autoencoder" else self.denoiser
        config, settings = read_presets(stage, preset)
        config = replace(config, **changes)
        batch_size = max(config.micro_batches(1))
        with self.device:
            step = make_step(stage, config, settings)
            work = self._step_work(step, batch_size, mode)
            inputs = _forward_inputs(step, batch_size)
            flops = training_flops(step.model, *inputs)
            row = self._timed(work, flops, batch_size)
        # A single GPU takes one micro-batch at a time; the moving averages of a run are not part of this step.
        counted = count_presets(stage, preset, **changes)
        averages = step.num_averages * 4 * counted.parameters
        return replace(row, counted_memory_bytes=counted.total - averages)

    def _step_work(self, step: Step, batch_size: int, mode: str) -> Callable[[], None]:
        if step.config.gradient_checkpointing:
            step.model.enable_gradient_checkpointing()
        self._compile(step.model, mode)
        optimizers = [optimizer.build(module, max_steps=1000)[0] for module, optimizer in step.trained]

        def work() -> None:
            with self._autocast():
                losses = step.losses(batch_size)
            sum(losses).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

        return work

    def _autocast(self):
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def _compile(self, model: nn.Module, mode: str) -> None:
        if mode == "compiled":
            model.compile_repeated_blocks()

    def _vae(self, mode: str) -> AutoencoderVidTwin:
        vae = AutoencoderVidTwin(**read_presets("autoencoder", self.autoencoder)[1]).eval()
        nn.Module.to(vae, self._dtype)
        self._compile(vae, mode)
        return vae

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @torch.no_grad()
    def encoding(self, mode: str) -> Row:
        """Clips to latents."""
        with self.device:
            vae, batch_size = self._vae(mode), 8
            video = torch.zeros(batch_size, *vae.video_shape, dtype=self._dtype)
            return self._timed(lambda: vae.encode(video), count_flops(vae.encode, video), batch_size)

    @torch.no_grad()
    def decoding(self, mode: str) -> Row:
        """Latents to clips."""
        with self.device:
            vae, batch_size = self._vae(mode), 8
            shapes = vae.structure_shape, vae.dynamics_shape
            latents = VidTwinLatents(*(torch.zeros(batch_size, *shape, dtype=self._dtype) for shape in shapes))
            return self._timed(lambda: vae.decode(latents), count_flops(vae.decode, latents), batch_size)

    def sampling(self, mode: str) -> Row:
        """Guided samples, from the class to the latents."""
        batch_size = 2 if self.config.quick else 8
        with self.device:
            vae = self._vae("eager")
            transformer = DenoiserStep(*read_presets("generator", self.denoiser)).model.eval()
        nn.Module.to(transformer, self._dtype)
        self._compile(transformer, mode)
        pipe = VidTwinDiffusionPipeline(vae, transformer, make_scheduler(transformer.config.prediction_type))
        pipe.set_progress_bar_config(disable=True)
        flops = []

        def work() -> None:
            out = pipe(list(range(batch_size)), self.steps, 3.0, generator=0, output_type="latent")
            flops.append(out.cost.sampling.flops)

        row = self._timed(work, 0, batch_size)
        return self._with_flops(replace(row, note=f"{self.steps} steps"), flops[-1])

    def _timed(self, work: Callable[[], object], flops: int, batch_size: int) -> Row:
        """Seconds and peak memory of the rounds, after warm-up rounds in which kernels are chosen and compiled."""
        for _ in range(self.warm_ups):
            work()
        costs = []
        for _ in range(self.rounds):
            with measure(self.device) as cost:
                work()
            costs.append(cost)
        peaks = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None]
        row = Row(
            part="",
            batch_size=batch_size,
            seconds=statistics.median(cost.seconds for cost in costs),
            peak_memory_bytes=max(peaks, default=None),
        )
        return self._with_flops(row, flops)

    def _with_flops(self, row: Row, flops: int) -> Row:
        return replace(row, flops=flops, mfu=flops / row.seconds / self.peak if self.peak else None)


def _forward_inputs(step: Step, batch_size: int) -> tuple[torch.Tensor, ...]:
    if not isinstance(step, DenoiserStep):
        return (torch.empty(batch_size, *step.model.video_shape, device="meta"),)
    layout = step.model.layout
    tokens = torch.empty(batch_size, layout.num_tokens, layout.token_dim, device="meta")
    labels = torch.zeros(batch_size, dtype=torch.long, device="meta")
    return tokens, torch.empty(batch_size, device="meta"), labels


def known_peak(card: str) -> float | None:
    """Peak FLOP/s of dense bf16 products of a card; None for one that is not in `PEAKS`."""
    words = card.replace("-", " ").split()
    return next((peak for name, peak in PEAKS.items() if all(word in words for word in name.split())), None)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block when the time is up; only where Python runs, not inside of a kernel."""

    def stop(*_) -> None:
        raise TimeoutError(f"took more than {seconds:.0f} s")

    former = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def run_part(name: str, mode: str, work: Callable[[str], Row], seconds: float) -> Row:
    """Run a part; any error is recorded in its row, so that the next part can run."""
    try:
        with time_limit(seconds):
            return replace(work(mode), part=name, mode=mode)
    except Exception as error:
        error = getattr(error, "inner_exception", error)  # the compiler wraps what went wrong, the time limit too
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Row(part=name, mode=mode, error=reason[:500])
    finally:
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def run_tests(seconds: float = TEST_SECONDS) -> Row:
    """Run the tests marked `gpu`, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(ROOT / "tests")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return Row(part="tests", error=f"took more than {seconds:.0f} s")
    except OSError as error:
        return Row(part="tests", error=str(error))
    lines = (done.stdout + done.stderr).strip().splitlines() or [""]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    error = "; ".join(failed) or f"pytest ended with code {done.returncode}: {lines[-1]}"
    return Row(part="tests", note=lines[-1], error=error[:2000] if done.returncode else None)


def table(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown."""
    heads = ("part", "mode", "batch", "seconds", "FLOPs", "MFU", "peak memory", "counted", "")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        timed = row.seconds is not None
        cells = (
            row.part,
            row.mode,
            str(row.batch_size or ""),
            f"{row.seconds:.4f}" if timed else "",
            format_flops(row.flops) if row.flops else "",
            f"{row.mfu:.1%}" if row.mfu else "not known" if timed else "",
            format_bytes(row.peak_memory_bytes) if row.peak_memory_bytes else "not measured" if timed else "",
            format_bytes(row.counted_memory_bytes) if row.counted_memory_bytes else "",
            "; ".join(filter(None, (row.note, row.error and f"stopped: {row.error}"))),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Versions of the libraries that the numbers depend on."""
    installed = {}
    for name in LIBRARIES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def run(config: GpuConfig, device: torch.device) -> list[Row]:
    """Run all parts within the time."""
    end = time.monotonic() + 60 * config.minutes
    rows = [run_tests(min(TEST_SECONDS, 60 * config.minutes))] if config.tests else []
    for name, mode, work in Bench(config, device).parts():
        left = end - time.monotonic()
        if left <= 0:
            rows.append(Row(part=name, mode=mode, error=f"left out: the {config.minutes:g} minutes were over"))
        else:
            rows.append(run_part(name, mode, work, min(left, config.part_seconds)))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    return rows


def execute(config: GpuConfig) -> None:
    """Run all parts, print the tables and write them."""
    device = resolve_device(config.device)
    if device.type != "cuda" and not config.quick:
        raise UserError("there is no CUDA GPU here, so nothing was measured; --quick tries the command on the CPU")
    machine = environment(device) | versions()
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    rows = run(config, device)
    name = "gpu_" + "".join(letter if letter.isalnum() else "-" for letter in machine["device"].lower())
    text = table(rows)
    write_json(config.output_dir / f"{name}.json", "gpu", machine, rows)
    with atomic_path(config.output_dir / f"{name}.md") as temporary:
        temporary.write_text(f"{', '.join(f'{key} {value}' for key, value in machine.items())}\n\n{text}\n")
    failed = [row.part for row in rows if row.error]
    print(
        f"{text}\n{len(rows) - len(failed)} of {len(rows)} parts ran; wrote {name}.json and .md to {config.output_dir}"
    )
