"""The Sprites benchmark in `python -m benchmarks.separation --dataset sprites --judge DIR`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoencoder.common.errors import UserError
from autoencoder.data import DataConfig
from autoencoder.data.sprite_sources import ATTRIBUTES, NUM_FRAMES, SIDE
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics.sprites_judge import load_judge
from autoencoder.metrics.sprites_protocol import SpritesProtocol
from autoencoder.metrics.sprites_scores import SpritesScores
from autoencoder.vidtwin import AutoencoderVidTwin
from benchmarks.published import PUBLISHED
from benchmarks.work.autoencoder_runs import companions
from benchmarks.work.sprites_judge import split_fingerprint

if TYPE_CHECKING:
    from autoencoder.data.sprites import Sprites

NAME_WIDTH = 38
HEADER = f"{'':{NAME_WIDTH}}{'action':>8}{'IS':>8}{'H(y|x)':>8}{'H(y)':>8}" + "".join(f"{n:>10}" for n in ATTRIBUTES)
NOTES = """\
A companion, another clip of the same character, tells which clips share their content: a weak supervision, which the
published methods do without. Companions from the clip itself, at another moment, tell nothing beyond the clip.
Chance: 11.1 % of an action, 16.7 % of an attribute. At most: inception score (IS) 9, H(y) ln 9 = 2.197."""


@dataclass(frozen=True)
class SpritesRow:
    """A row of the table.

    Attributes:
        autoencoder: its folder.
        companions: what its training read structure from, as `companions` tells it.
        clips: which clips were judged.
        scores: what the judge says of them.
    """

    autoencoder: str
    companions: str
    clips: str
    scores: SpritesScores


class JudgedSprites:
    """The held-out sprites and their judge.

    Args:
        judge: folder of the judge.
        data_root: of the sprites; None is data/sprites.
        count: held-out clips to judge; None takes all.
        seed: what partners and samples of the prior depend on.
        device: such as "cpu" or "cuda:0".

    Raises:
        MissingFileError: if the folder holds no judge, or there are no data.
        UserError: if the judge's accuracy was measured on other clips than these, or there is no such device.
    """

    def __init__(self, judge: Path, data_root: str | None, count: int | None, seed: int, device: str):
        self.data = DataConfig(dataset="sprites", data_root=data_root)
        self.judge, record = load_judge(judge, device)
        if record["test_clips"] != split_fingerprint(self._held_out(NUM_FRAMES, SIDE)):
            raise UserError(
                f"the judge of {judge} was measured on other clips than the held-out ones of {self.data.root}: train "
                "one on these by `python -m benchmarks.sprites_judge`"
            )
        self.count, self.seed = count, seed
        self.description = f"judge {judge}, on the held-out clips themselves: {_shares(record['scores'])}"

    def measure(
        self, checkpoint: Path, vae: AutoencoderVidTwin, sample: Callable[[int], VidTwinLatents] | None = None
    ) -> list[SpritesRow]:
        """Judge an autoencoder, and print its rows.

        Args:
            checkpoint: its folder, or that of the pipeline which holds it.
            vae: in eval mode.
            sample: draws so many latents by a pipeline, whatever the judged clips show; None leaves its rows out.
        """
        told = companions(checkpoint)
        sprites = self._held_out(vae.config.num_frames, vae.config.sample_size)
        protocol = SpritesProtocol(vae, self.judge, sprites, self.count, self.seed)
        rows = protocol.rows(None if sample is None else sample(len(protocol.clips)))
        print(f"{checkpoint} ({told})\n{HEADER}")
        for clips, scores in rows.items():
            print(line(clips, vars(scores) | (scores.attributes or {})))
        return [SpritesRow(str(checkpoint), told, clips, scores) for clips, scores in rows.items()]

    def _held_out(self, num_frames: int, size: int) -> "Sprites":
        return self.data.build("val", num_frames, size)


def line(name: str, values: Mapping[str, Any]) -> str:
    """A line of the table; scores that were not asked for stay empty."""

    def cell(key: str, width: int, kind: str) -> str:
        return f"{values[key]:{width}{kind}}" if values.get(key) is not None else " " * width

    entropies = "".join(cell(key, 8, ".3f") for key in ("inception_score", "conditional_entropy", "marginal_entropy"))
    attributes = "".join(cell(attribute, 10, ".2%") for attribute in ATTRIBUTES)
    return f"{name:{NAME_WIDTH}}{cell('action', 8, '.2%')}{entropies}{attributes}"


def published_table() -> str:
    """What others report with the motion kept and the content sampled, with the source of each."""
    lines = ["Published, with the motion kept and the content sampled", HEADER]
    for scores in PUBLISHED:
        is_known = scores.action is not None
        lines.append(line(scores.method, vars(scores)) if is_known else f"{scores.method:{NAME_WIDTH}}not confirmed")
        lines.append(f"  {scores.source}")
    return "\n".join(text.rstrip() for text in lines)


def _shares(scores: Mapping[str, Any]) -> str:
    shares = {"action": scores["action"], **scores["attributes"]}
    return ", ".join(f"{name} {share:.2%}" for name, share in shares.items())
