"""The work of `python -m benchmarks.separation`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from autoencoder.checkpoint import fingerprint, load_autoencoder
from autoencoder.codec import decode_clips, encode_clips
from autoencoder.common.device import resolve_device
from autoencoder.common.pictures import save_png, sheet
from autoencoder.common.seeding import derive_seed
from autoencoder.data import to_video
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics.exchanged_clips import exchange_shares
from autoencoder.metrics.msd import TwoFactorScore, permuted, two_factor
from autoencoder.metrics.probes import Probe, probe
from autoencoder.metrics.reconstruction import clips_psnr
from autoencoder.metrics.separation import nearness
from autoencoder.metrics.sprites_judge import SpritesJudge
from autoencoder.vidtwin import AutoencoderVidTwin
from benchmarks.report import environment, write_json
from benchmarks.separation import SeparationConfig
from benchmarks.work.autoencoder_runs import companions, difference
from benchmarks.work.separation_clips import ShapesClips, SpritesClips
from benchmarks.work.sprites_separation import NOTES, JudgedSprites, SpritesRow, published_table
from pipelines.checkpoint import load_pipeline
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

SAMPLES_AT_A_TIME = 20
NUM_SHOWN = 5  # exchanged clips of a sheet
NUM_SOURCES = 3  # rows of `pictures` that do not depend on the autoencoder
WIDTH = 14  # of a column
LATENTS = ("structure", "dynamics")
COLUMNS = {
    "shape": "shape",
    "background": "background",
    "colour": "colour",
    "content": "content",
    "axis": "axis",
    "path_correlation": "path, r",
    "path_distance": "path, px",
}

SheetRow = tuple[str, list[torch.Tensor]]
Sampler = Callable[[int], VidTwinLatents]  # latents of so many clips


@dataclass(frozen=True)
class Separation:
    """What was measured of an autoencoder.

    Attributes:
        checkpoint: its folder.
        companions: what its training read structure from.
        exchanged_clips: clips with their latents from two held-out clips.
        psnr: of reconstructions of held-out clips, in dB.
        exchanged_psnr: of exchanged clips against true renderings of the one's content in the other's motion, in dB.
        nearness: as in `autoencoder.metrics.separation.nearness`.
        rows: shares, on moving shapes: of the exchanged clips in common with the clip that gave the "structure" or the
            "dynamics" or "neither"; of "reconstructions" and "renderings" in common with what they should show.
        probes: accuracy from "structure" and "dynamics", where the model has it, and chance, by what is read; None if
            they are left out.
        exchanged_score, sampled_score: two-factor scores of the MSD benchmark; None is not measured.
        judged: rows of the Sprites benchmark; None is not measured.
    """

    checkpoint: str
    companions: str
    exchanged_clips: int
    psnr: float
    exchanged_psnr: float
    nearness: dict[str, float | None]
    rows: dict[str, dict[str, float | None]] | None
    probes: dict[str, dict[str, Probe]] | None
    exchanged_score: TwoFactorScore | None
    sampled_score: TwoFactorScore | None
    judged: list[SpritesRow] | None = None


def measure(
    name: str,
    vae: AutoencoderVidTwin,
    config: SeparationConfig,
    sample: Sampler | None = None,
    judge: SpritesJudge | None = None,
) -> Separation:
    """Measure an autoencoder.

    Args:
        name: of its folder.
        vae: in eval mode.
        config: the command's.
        sample: draws latents of a generative model of this autoencoder; None measures none.
        judge: of sprites; None measures no two-factor score of them.
    """
    size = (vae.config.num_frames, vae.config.sample_size)
    data = ShapesClips(config, *size) if config.dataset == "shapes" else SpritesClips(config, *size, judge)
    exchange = data.exchange()
    latents = encode_clips(vae, exchange.clips)
    own = decode_clips(vae, latents)
    exchanged = decode_clips(vae, VidTwinLatents(latents.structure, latents.dynamics[exchange.dynamics_of]))
    videos = (to_video(clips) for clips in (exchanged, own, own[exchange.dynamics_of]))
    scores = (None, None)
    if data.judge is not None:
        scores = two_factor_scores(vae, data, 2 * config.count, config.seed, sample)
    return Separation(
        checkpoint=name,
        companions=companions(Path(name)),
        exchanged_clips=len(exchanged),
        psnr=clips_psnr(own, exchange.clips),
        exchanged_psnr=clips_psnr(exchanged, exchange.rendered),
        nearness=nearness(*videos),
        rows=None if exchange.truths is None else exchange_shares(exchange, exchanged, own),
        probes=probes(vae, data, config.probe_clips, config.seed) if config.probe_clips else None,
        exchanged_score=scores[0],
        sampled_score=scores[1],
    )


def pictures(name: str, vae: AutoencoderVidTwin, config: SeparationConfig) -> list[SheetRow]:
    """A few exchanged clips, as rows of a sheet: both sources, the true rendering, and what is decoded."""
    size = (vae.config.num_frames, vae.config.sample_size)
    few = replace(config, count=NUM_SHOWN)
    exchange = (ShapesClips(few, *size) if config.dataset == "shapes" else SpritesClips(few, *size)).exchange()
    dynamics = exchange.dynamics_of[:NUM_SHOWN]
    latents = encode_clips(vae, exchange.clips)
    mixed = VidTwinLatents(latents.structure[:NUM_SHOWN], latents.dynamics[dynamics])
    return [
        ("structure from these clips", list(exchange.clips[:NUM_SHOWN])),
        ("dynamics from these", list(exchange.clips[dynamics])),
        ("what a perfect exchange shows", list(exchange.rendered[:NUM_SHOWN])),
        (f"{name}: reconstructions of the first ones", list(decode_clips(vae, latents[:NUM_SHOWN]))),
        (f"{name}: exchanged", list(decode_clips(vae, mixed))),
    ]


def probes(
    vae: AutoencoderVidTwin, data: ShapesClips | SpritesClips, count: int, seed: int
) -> dict[str, dict[str, Probe]]:
    """What classifiers read from each latent that there is, by what they read and by the latent.

    There are half as many held-out clips as training clips.
    """
    (clips, labels), (held_out, held_out_labels) = (
        data.labelled(split, number) for split, number in (("train", count), ("val", count // 2))
    )
    train, test = encode_clips(vae, clips), encode_clips(vae, held_out)
    return {
        name: {
            latent: probe(getattr(train, latent), labels[name], getattr(test, latent), held_out_labels[name], seed)
            for latent in LATENTS
            if getattr(train, latent).numel()
        }
        for name in labels
    }


def two_factor_scores(
    vae: AutoencoderVidTwin, data: ShapesClips | SpritesClips, count: int, seed: int, sample: Sampler | None
) -> tuple[TwoFactorScore, TwoFactorScore | None]:
    """The MSD benchmark's score with exchanged and with sampled latents."""
    clips, labels = data.labelled("val", count)
    latents = encode_clips(vae, clips)

    def score(others: VidTwinLatents) -> TwoFactorScore:
        return two_factor(latents, others, lambda mixed: data.named(decode_clips(vae, mixed)), labels, data.factors)

    return score(permuted(latents, seed)), None if sample is None else score(sample(len(latents)))


def sampler(pipe: VidTwinDiffusionPipeline, num_inference_steps: int, guidance_scale: float, seed: int) -> Sampler:
    """Both latents at once, of classes drawn uniformly."""
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}

    def sample(count: int) -> VidTwinLatents:
        draw = np.random.default_rng(derive_seed(seed, "classes"))
        classes = draw.integers(pipe.transformer.config.num_classes, size=count).tolist()
        parts = []
        for start in range(0, count, SAMPLES_AT_A_TIME):
            batch, first = classes[start : start + SAMPLES_AT_A_TIME], derive_seed(seed, "samples", start)
            parts.append(pipe(batch, generator=first, output_type="latent", **settings).frames)
        return VidTwinLatents.cat(parts)

    return sample


def table(result: Separation) -> str:
    """All that was measured of an autoencoder, as lines to print."""
    lines = [
        f"{result.checkpoint} ({result.companions})",
        f"PSNR: reconstructions {result.psnr:.2f} dB, {result.exchanged_clips} exchanged clips ",
    ]
    lines[-1] += f"against true renderings {result.exchanged_psnr:.2f} dB"
    near = (f"{name} {_text(value, '.2f')}" for name, value in result.nearness.items())
    lines.append(f"nearness to the right source (0.5: as near to either): {', '.join(near)}")
    return "\n".join([*lines, *_share_lines(result.rows), *_probe_lines(result.probes), *_score_lines(result)])


def _share_lines(rows: dict[str, dict[str, float | None]] | None) -> list[str]:
    if rows is None:
        return []
    captions = {
        "structure": "exchanged: as the clip of S",
        "dynamics": "exchanged: as the clip of D",
        "neither": "exchanged: as neither",
        "reconstructions": "reconstructions: as the clip",
        "renderings": "true renderings: as drawn",
    }
    lines = ["", f"{'':30}" + "".join(f"{title:>{WIDTH}}" for title in COLUMNS.values())]
    for name, row in rows.items():
        cells = (
            f"{'' if column not in row else _text(row[column], '.2f' if 'path' in column else '.0%'):>{WIDTH}}"
            for column in COLUMNS
        )
        lines.append(f"{captions[name]:30}" + "".join(cells))
    return lines


def _probe_lines(found: dict[str, dict[str, Probe]] | None) -> list[str]:
    if found is None:
        return ["", "probes: not measured"]
    lines = ["", f"{'read by a probe':30}{'from S':>{WIDTH}}{'from D':>{WIDTH}}{'chance':>{WIDTH}}"]
    for name, row in found.items():
        values = [row[latent].accuracy if latent in row else None for latent in LATENTS] + [row["structure"].chance]
        lines.append(f"{name:30}" + "".join(f"{_text(value, '.0%'):>{WIDTH}}" for value in values))
    return lines


def _score_lines(result: Separation) -> list[str]:
    def line(others: str, score: TwoFactorScore | None) -> str:
        if score is None:
            return f"two-factor score of MSD with {others} latents: not measured"
        kept = (
            f"{latent} kept: {', '.join(f'{name} {share:.0%}' for name, share in score.accuracies[kind].items())}"
            for latent, kind in (("S", "static"), ("D", "dynamic"))
        )
        return f"two-factor score of MSD with {others} latents: {score.score:.3f} ({'; '.join(kept)})"

    return ["", line("exchanged", result.exchanged_score), line("sampled", result.sampled_score)]


def _text(value: float | None, form: str) -> str:
    return "not measured" if value is None else format(value, form)


def comparison(results: Sequence[Separation]) -> str:
    """All autoencoders side by side; the price is the PSNR of reconstructions less than the first one's.

    Below stands what else they differ in, which may have a price of its own.
    """
    width = max(len(result.checkpoint) for result in results)
    titles = ("PSNR, dB", "price, dB", "error, x", "exch., dB", "S content", "D axis")
    lines = [" " * width + "".join(f"{title:>{WIDTH}}" for title in titles)]
    for result in results:
        price = results[0].psnr - result.psnr
        rows = result.rows or {}
        wanted = (rows.get(latent, {}).get(name) for latent, name in (("structure", "content"), ("dynamics", "axis")))
        numbers = (f"{value:{WIDTH}.2f}" for value in (result.psnr, price, 10 ** (price / 10), result.exchanged_psnr))
        parts = [*numbers, *(f"{_text(value, '.0%'):>{WIDTH}}" for value in wanted)]
        lines.append(f"{result.checkpoint:{width}}{''.join(parts)}")
    first, *others = (Path(result.checkpoint) for result in results)
    lines += [difference(first, other) for other in others]
    return "\n".join(lines)


def execute(config: SeparationConfig) -> None:
    """Measure all autoencoders, print and write."""
    device, judged, results, shown = resolve_device(config.device), None, [], []
    if config.judge is not None:
        judged = JudgedSprites(config.judge, config.data_root, config.judged_clips, config.seed, config.device)
        print(f"{judged.description}\n", flush=True)
    for folder, vae, sample in models(config):
        result = measure(str(folder), vae, config, sample, judged and judged.judge)
        print(f"{table(result)}\n", flush=True)
        if config.sheet:
            rows = pictures(str(folder), vae, config)
            shown += rows if not shown else rows[NUM_SOURCES:]
        results.append(replace(result, judged=judged and judged.measure(folder, vae, sample)))
    if len(results) > 1:
        print(f"\n{comparison(results)}")
    if judged:
        print(f"\n{NOTES}\n\n{published_table()}")
    settings = {"dataset": config.dataset, "seed": config.seed, "probe_clips": config.probe_clips}
    write_json(config.output, "separation", environment(device) | settings, results)
    print(f"\nwrote {config.output}")
    if config.sheet:
        save_png(sheet(shown), config.sheet)
        print(f"wrote {config.sheet}")


def models(config: SeparationConfig) -> Iterator[tuple[Path, AutoencoderVidTwin, Sampler | None]]:
    """Folder and autoencoder of every row, and what samples its latents.

    One of the checkpoints is in memory at a time, beside the pipeline, whose autoencoder may be among them.
    """
    samplers = {}
    if config.pipeline is not None:
        pipe = load_pipeline(config.pipeline, config.device)
        drawing = config.num_inference_steps, config.guidance_scale, config.seed
        samplers[fingerprint(pipe.vae)] = sampler(pipe, *drawing)
    for folder in config.checkpoints:
        vae = load_autoencoder(folder, config.device)
        yield folder, vae, samplers.pop(fingerprint(vae), None) if samplers else None
    for sample in samplers.values():
        yield config.pipeline, pipe.vae, sample
