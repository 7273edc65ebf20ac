"""The work of `python -m benchmarks.people`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from einops import rearrange

from autoencoder.checkpoint import load_autoencoder
from autoencoder.codec import decode_clips, encode_clips
from autoencoder.common.device import resolve_device
from autoencoder.common.errors import UserError
from autoencoder.common.pictures import save_png, sheet
from autoencoder.common.seeding import derive_seed
from autoencoder.data.config import DataConfig
from autoencoder.latents import VidTwinLatents
from autoencoder.metrics import I3D, FrechetVideoDistance, KernelVideoDistance, VideoLPIPS, VideoPSNR, VideoSSIM
from autoencoder.metrics.nearest_mean import NearestMean, left_out_verdicts
from autoencoder.vidtwin import AutoencoderVidTwin
from benchmarks.people import PeopleConfig
from benchmarks.report import environment, write_json
from benchmarks.settings import name_and_folder
from benchmarks.work.people_inputs import (
    SPLITS,
    Clips,
    check_classes,
    check_sizes,
    colours,
    of_several,
    partners,
    read_clips,
)
from benchmarks.work.people_report import (
    Distance,
    Exchange,
    Found,
    Judges,
    Reconstructions,
    Samples,
    judge_text,
    tables,
)
from pipelines.checkpoint import load_pipeline
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

PARTS = ("both", "structure", "dynamics")
FROZEN = "frozen mean frame"
FIRST_SEED = 1_000_000  # of the samples
SHOWN, FRAMES = 4, 5  # clips of a row of the sheet, frames of a clip


@dataclass(frozen=True)
class Verdicts:
    """What the judges see in clips, int64 (N,) each.

    Attributes:
        action: nearest mean of the real training clips.
        decoded_action: nearest mean of the decoded training clips. I3D sees little in soft pictures; where this is
            right and `action` is not, the action is there and the sharpness is not.
        look: whose look it is.
    """

    action: torch.Tensor
    decoded_action: torch.Tensor
    look: torch.Tensor


class People:
    """The real clips, the judges and the metrics.

    Args:
        config: the command's.
        vae: the autoencoder whose decoded training clips the second judge of actions knows.
        pipe: what is to sample these actions; None where nothing does.

    Raises:
        UserError: if contents, labels or persons are not known, the pipeline does not sample these actions, or the
            weights of I3D or LPIPS are not installed.
    """

    def __init__(self, config: PeopleConfig, vae: AutoencoderVidTwin, pipe: VidTwinDiffusionPipeline | None = None):
        self.config, self.device = config, resolve_device(config.device)
        self.i3d, self.lpips = I3D.installed().to(self.device), VideoLPIPS()
        names = ("data_root", "content_pattern", "held_out_contents", "sample_fps")
        data = DataConfig("folder", crop="center", **{name: getattr(config, name) for name in names})
        size = vae.config.num_frames, vae.config.sample_size
        parts = {split: data.build(split, *size) for split in SPLITS.values()}
        self.class_names = parts["train"].class_names
        if pipe is not None:
            check_classes(pipe, self.class_names)
        self.clips = read_clips(config, parts, self.logits)
        self.action = NearestMean(self.clips.logits, self.clips.labels)
        self.look = NearestMean(self.clips.colours, self.clips.looks)
        training = self.of("training")
        self.decoded = self.logits(decode_clips(vae, encode_clips(vae, training.frames, config.batch_size)))
        self.decoded_action = NearestMean(self.decoded, training.labels)

    def of(self, people: str) -> Clips:
        """The clips of a key of `SPLITS`."""
        return self.clips.select(self.clips.is_training == (people == "training"))

    def logits(self, frames: torch.Tensor) -> torch.Tensor:
        """Logits of I3D, float32 (N, 400), of clips uint8 (N, T, H, W, 3)."""
        videos = rearrange(frames, "n t h w c -> n c t h w").split(self.config.batch_size)
        return torch.cat([self.i3d(video.to(self.device).float() / 255).cpu() for video in videos])

    def judges(self) -> Judges:
        """How right the judges are on real clips."""
        clips, names = self.clips, self.class_names
        # What only one person does, or one video shows, is not known once that is left out.
        acts = clips.select(of_several(clips.labels, clips.people))
        said = left_out_verdicts(acts.logits, acts.labels, acts.people) if len(acts) else None
        wrong = [] if said is None else zip(acts.labels, said, strict=True)
        wrong = [f"{names[a]} as {names[b]}" for a, b in wrong if a != b]
        shown = clips.select(of_several(clips.looks, clips.videos))
        looks = left_out_verdicts(shown.colours, shown.looks, shown.videos) if len(shown) else None
        return Judges(
            action_accuracy=None if said is None else share(said == acts.labels),
            action_errors={name: wrong.count(name) for name in sorted(set(wrong))},
            look_accuracy=None if looks is None else share(looks == shown.looks),
        )

    def distances(self, real: torch.Tensor, fake: torch.Tensor) -> tuple[float, float]:
        """FVD and KVD between sets of clips by their logits (N, 400)."""
        found = []
        for kind in (FrechetVideoDistance, KernelVideoDistance):
            distance = kind(self.i3d)
            distance.update_features(real, real=True)
            distance.update_features(fake, real=False)
            found.append(distance.compute().item())
        return found[0], found[1]

    def reconstructions(self, name: str, vae: AutoencoderVidTwin) -> list[Reconstructions]:
        """The rows of an autoencoder."""
        held_out = self.of("held-out")
        latents = encode_clips(vae, held_out.frames, self.config.batch_size)
        return [self._scores(name, part, held_out, decode_clips(vae, latents, part)) for part in PARTS]

    def frozen(self) -> Reconstructions:
        """The row of the clips' own mean frames, shown for as long as the clip."""
        held_out = self.of("held-out")
        mean = held_out.frames.float().mean(dim=1, keepdim=True).round().byte().expand_as(held_out.frames)
        return self._scores("", FROZEN, held_out, mean)

    def _scores(self, name: str, part: str, real: Clips, frames: torch.Tensor) -> Reconstructions:
        metrics = {"psnr": VideoPSNR(), "ssim": VideoSSIM(), "lpips": self.lpips}
        self.lpips.reset()
        pair = [rearrange(clips, "n t h w c -> n c t h w").float() / 255 for clips in (frames, real.frames)]
        for one, other in zip(*(videos.split(1) for videos in pair), strict=True):
            for metric in metrics.values():
                metric.update(one, other)
        scores = {key: metric.compute().item() for key, metric in metrics.items()}
        logits = self.logits(frames)
        scores["rfvd"], scores["rkvd"] = self.distances(real.logits, logits)
        seen = self.verdicts(frames, logits)
        scores["action"] = share(seen.action == real.labels)
        scores["decoded_action"] = share(seen.decoded_action == real.labels)
        scores["look"] = share(seen.look == real.looks)
        return Reconstructions(name, part, **scores, clips=len(real))

    def pairs(self, people: str) -> tuple[Clips, Clips]:
        """Clips that give structure, and as many that give dynamics, of another person and another action."""
        clips = self.of(people)
        places = partners(clips.people, clips.labels)
        rng = np.random.default_rng(derive_seed(0, "people: pairs", people))
        chosen = torch.from_numpy(rng.permutation(len(places))[: self.config.pairs])
        return clips.select(places[chosen, 0]), clips.select(places[chosen, 1])

    def verdicts(self, frames: torch.Tensor, logits: torch.Tensor) -> Verdicts:
        """What the judges see in clips uint8 (N, T, H, W, 3), whose logits of I3D are these, float32 (N, 400)."""
        return Verdicts(self.action(logits), self.decoded_action(logits), self.look(colours(frames)))

    def exchange(self, vae: AutoencoderVidTwin, people: str) -> tuple[Exchange, list]:
        """What is seen of the latents of two real clips, and rows of a sheet."""
        one, other = self.pairs(people)
        structure, dynamics = (encode_clips(vae, clips.frames, self.config.batch_size) for clips in (one, other))
        frames = decode_clips(vae, VidTwinLatents(structure.structure, dynamics.dynamics))
        seen = self.verdicts(frames, self.logits(frames))
        found = Exchange(
            people,
            len(one),
            action_of_dynamics=share(seen.action == other.labels),
            action_of_structure=share(seen.action == one.labels),
            decoded_action_of_dynamics=share(seen.decoded_action == other.labels),
            look_of_structure=share(seen.look == one.looks),
            look_of_dynamics=share(seen.look == other.looks),
        )
        right = (seen.action == other.labels).int() + (seen.look == one.looks)
        worst = right.argsort(stable=True)[:SHOWN].tolist()
        rows = [
            (f"{people} people, clips A: those whose exchange has a fault stand first", pick(one.frames, worst)),
            ("clips B", pick(other.frames, worst)),
            (
                f"structure of A, dynamics of B: action of B in {found.action_of_dynamics:.0%}, look of A in "
                f"{found.look_of_structure:.0%}",
                pick(frames, worst),
            ),
        ]
        return found, rows


def share(right: torch.Tensor) -> float:
    """Share of true values."""
    return right.double().mean().item()


def pick(frames: torch.Tensor, places: Sequence[int]) -> np.ndarray:
    """Clips at these places, each a picture of evenly spaced frames side by side: uint8 (clips, H, frames W, 3)."""
    moments = np.linspace(0, frames.shape[1] - 1, FRAMES).round().astype(int)
    return rearrange(frames[list(places)][:, moments], "n t h w c -> n h (t w) c").numpy()


class Sampled:
    """The samples of a pipeline.

    Args:
        people: real clips and judges.
        pipe: the pipeline.
    """

    def __init__(self, people: People, pipe: VidTwinDiffusionPipeline):
        self.people, self.pipe, self.config = people, pipe, people.config
        pipe.set_progress_bar_config(disable=True)

    def clips(self, labels: torch.Tensor, seed: int, structure: torch.Tensor | None = None) -> torch.Tensor:
        """A sample of every class given, uint8 (N, T, H, W, 3), each for its structure where there are some."""
        parts, size = [], self.config.batch_size
        for start in range(0, len(labels), size):
            batch = slice(start, start + size)
            given = {} if structure is None else {"structure": structure[batch]}
            out = self.pipe(
                labels[batch].tolist(),
                self.config.num_inference_steps,
                self.config.guidance_scale,
                generator=seed + start,
                output_type="latent",
                **given,
            )
            parts.append(out.frames)
        return decode_clips(self.pipe.vae, VidTwinLatents.cat(parts))

    def measure(self) -> tuple[list[Distance], list[Samples], list]:
        """Distances and shares of samples, and rows of a sheet."""
        real = self.people.of("training")
        rows, seen, sets = [], [], []
        for seed in range(self.config.seeds):
            frames = self.clips(real.labels, FIRST_SEED * (seed + 1))
            logits = self.people.logits(frames)
            sets.append(logits)
            seen.append(self.people.verdicts(frames, logits))
            if seed == 0:
                rows += self._rows(frames, real.labels, seen[0].action)
        found = [self._judged("nothing", real.labels, seen)]
        distances = self._distances("samples", real, sets, real.labels)
        distances += self._distances("reconstructions", real, [self.people.decoded], real.labels)
        held_out = self.people.of("held-out")
        distances += self._distances("held-out people", real, [held_out.logits], held_out.labels)
        distances += self._halves(real)
        for people in SPLITS:
            more, pictures = self._given(people)
            found.append(more)
            rows += pictures
        return distances, found, rows

    def _judged(
        self,
        given: str,
        labels: torch.Tensor,
        seen: Sequence[Verdicts],
        looks: torch.Tensor | None = None,
    ) -> Samples:
        names = self.people.class_names
        right = torch.stack([verdicts.action == labels for verdicts in seen]).double()  # (seeds, N)
        return Samples(
            given,
            len(labels),
            action=right.mean(dim=1).tolist(),
            decoded_action=[share(verdicts.decoded_action == labels) for verdicts in seen],
            look=[] if looks is None else [share(verdicts.look == looks) for verdicts in seen],
            by_action={
                name: right[:, labels == label].mean().item() if (labels == label).any() else None
                for label, name in enumerate(names)
            },
        )

    def _distances(self, name: str, real: Clips, sets: Sequence[torch.Tensor], labels: torch.Tensor) -> list[Distance]:
        """Of all actions and of each, from sets of features (M, 400) of clips of these labels (M,)."""
        rows = []
        for label, action in [(None, "all"), *enumerate(self.people.class_names)]:
            mine = real.logits if label is None else real.logits[real.labels == label]
            rows.append(
                self._distance(name, action, mine, [fake if label is None else fake[labels == label] for fake in sets])
            )
        return rows

    def _halves(self, real: Clips) -> list[Distance]:
        """One half of the training clips against the other, other moments of the same videos."""
        place = torch.arange(len(real)) % self.config.clips_per_video
        first, second = (real.logits[(place % 2 == half)] for half in (0, 1))
        return [self._distance("other moments of the same videos", "all", first, [second])]

    def _distance(self, name: str, action: str, mine: torch.Tensor, fakes: Sequence[torch.Tensor]) -> Distance:
        """Distances of sets of features from one set, (N, 400) each."""
        count = min(len(mine), len(fakes[0]))  # only distances between equally many clips compare
        pairs = [(_spread(mine, count), _spread(fake, count)) for fake in fakes] if count > 1 else []
        values = [self.people.distances(*pair) for pair in pairs]
        return Distance(name, action, count, [fvd for fvd, _ in values], [kvd for _, kvd in values])

    def _given(self, people: str) -> tuple[Samples, list]:
        """Dynamics sampled for the structure of real clips and the next action."""
        clips = self.people.of(people)
        clips = clips.select(torch.arange(len(clips)) % self.config.clips_per_video == 0)  # one of each video
        wanted = (clips.labels + 1) % len(self.people.class_names)
        structure = encode_clips(self.pipe.vae, clips.frames, self.config.batch_size).structure
        seen, shown = [], None
        for seed in range(self.config.seeds):
            frames = self.clips(wanted, FIRST_SEED * (seed + 1), structure)
            seen.append(self.people.verdicts(frames, self.people.logits(frames)))
            shown = frames if shown is None else shown
        found = self._judged(people, wanted, seen, clips.looks)
        right = (seen[0].action == wanted).int() + (seen[0].look == clips.looks)
        worst = right.argsort(stable=True)[:SHOWN].tolist()
        names = ", ".join(self.people.class_names[wanted[place]] for place in worst)
        caption = f"their structure, dynamics sampled for {names}: action as asked in {found.action[0]:.0%}, look kept "
        rows = [
            (f"{people} people whose structure is given, faults first", pick(clips.frames, worst)),
            (f"{caption}in {found.look[0]:.0%}", pick(shown, worst)),
        ]
        return found, rows

    def _rows(self, frames: torch.Tensor, labels: torch.Tensor, action: torch.Tensor) -> list:
        rows = []
        for label, name in enumerate(self.people.class_names):
            places = (labels == label).nonzero()[:, 0]
            if not len(places):
                continue
            right = action[places] == label
            order = places[right.int().argsort(stable=True)][:SHOWN].tolist()
            caption = f"samples of {name}, those judged otherwise first: {share(right):.0%} of {len(places)} are right"
            rows.append((caption, pick(frames, order)))
        return rows


def _spread(features: torch.Tensor, count: int) -> torch.Tensor:
    """As many rows, evenly spread."""
    return features[torch.arange(count) * len(features) // count]


def measure(config: PeopleConfig) -> tuple[Found, list]:
    """Measure all, and collect the rows of the sheet."""
    if not config.checkpoints:
        raise UserError("nothing to measure: give folders of autoencoders by --checkpoint")
    models = [
        (name, load_autoencoder(folder, config.device)) for name, folder in map(name_and_folder, config.checkpoints)
    ]
    first = models[0][1]
    pipe = None if config.pipeline is None else load_pipeline(str(config.pipeline), config.device)
    check_sizes(models + ([(str(config.pipeline), pipe.vae)] if pipe else []))
    people = People(config, first, pipe)
    judges = people.judges()
    print(judge_text(judges), flush=True)
    rows = _reconstruction_rows(people, first)
    reconstructions = [people.frozen()]
    for name, vae in models:
        reconstructions += people.reconstructions(name, vae)
    exchanges = []
    for split in SPLITS:
        found, pictures = people.exchange(first, split)
        exchanges.append(found)
        rows += pictures
    distances, samples, pictures = Sampled(people, pipe).measure() if pipe else ([], [], [])
    return Found(judges, reconstructions, exchanges, distances, samples), rows + pictures


def _reconstruction_rows(people: People, vae: AutoencoderVidTwin) -> list:
    clips = people.of("held-out")
    places = [len(clips) * place // SHOWN for place in range(SHOWN)]
    clips = clips.select(torch.tensor(places))
    latents = encode_clips(vae, clips.frames)
    names = {"both": "reconstructions", "structure": "structure alone", "dynamics": "dynamics alone"}
    places = range(len(clips))
    decoded = [(name, pick(decode_clips(vae, latents, part), places)) for part, name in names.items()]
    return [("held-out people", pick(clips.frames, places)), *decoded]


def execute(config: PeopleConfig) -> None:
    """Measure all, print and write."""
    found, rows = measure(config)
    print(f"\n{tables(found)}")
    settings = {name: str(value) for name, value in asdict(replace(config, data_root=None)).items() if value}
    about = environment(resolve_device(config.device)) | {"settings": settings}
    write_json(config.output, "people", about, [found])
    print(f"\nwrote {config.output}")
    if config.sheet:
        save_png(sheet(rows, columns=SHOWN, scale=1), config.sheet)
        print(f"wrote {config.sheet}")
