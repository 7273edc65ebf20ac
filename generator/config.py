"""The configs of stage two's commands."""

import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from autoencoder.common.config import OptimizerConfig, RunConfig
from autoencoder.common.errors import UserError, check_least
from autoencoder.data.config import HELD_OUT_SHARE, DataConfig

FLOW_KINDS = ("flow", "flow_sample")
DDPM_KINDS = ("sample", "epsilon", "v_prediction")
KINDS = (*FLOW_KINDS, *DDPM_KINDS)
CACHES = Path("outputs/latents")


@dataclass
class CacheConfig(DataConfig):
    """Settings of a latent cache."""

    autoencoder: str | None = None
    """Folder of the autoencoder; by default the one that `python -m autoencoder.train` left last, or for a run that
    starts from a pipeline (--init-from) the pipeline's own."""
    split: Literal["train", "val"] = "train"
    """Part of the data set."""
    max_videos: int | None = None
    """Videos to take at most, chosen at random; null takes all."""
    clips_per_video: int = 1
    """Clips of every video: the middle one, then others at random places with the crop of `crop`."""
    flip: bool = False
    """Encode every clip mirrored, too; only for data sets whose labels allow it."""
    companions: bool = False
    """Read the structure latent from a companion of the clip, another one of the same content as in exchange training,
    so that neither latent tells more of the other one than the content does."""
    clip_seed: int = 0
    """The choice of videos and clips is a function of it."""
    shard_size: int = 512
    """Clips of a file of the cache."""

    def __post_init__(self):
        super().__post_init__()
        check_least(self, 1, "clips_per_video", "shard_size", "max_videos")
        if self.shard_size % (1 + self.flip):
            raise UserError(f"shard_size must be even where clips are mirrored, got {self.shard_size}")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the bytes of a cache depend on, by name; beside them, only autoencoder and videos do."""
        names = ["dataset", "split", "max_videos", "clips_per_video", "flip", "companions", "clip_seed"]
        settings: dict[str, Any] = {}
        if self.reads_videos:
            names += ["sample_fps", "sampling"]
            settings["decoder"] = "pyav" if self.decoder == "auto" else self.decoder
            settings["data_root"] = str(self.root.resolve())
            settings["crop"] = self.crop if self.split == "train" else "center"
            settings |= self._choice
        if self.dataset == "shapes":
            settings["classes"] = self._choice["classes"]
        if self.dataset == "ucf101":
            names.append("ucf101_fold")
        if self.dataset == "folder":
            settings |= self._held_out_settings
        return {name: getattr(self, name) for name in names} | settings

    @property
    def _choice(self) -> dict[str, Any]:
        """Which videos are taken, the same for names in another order, or of UCF-101 in other letters."""
        fold = str.lower if self.dataset == "ucf101" else str
        named = {name: getattr(self, name) for name in ("classes", "held_out_contents")}
        choice = {name: None if given is None else sorted(map(fold, given)) for name, given in named.items()}
        return choice | {"content_pattern": self.content_pattern}

    @property
    def _held_out_settings(self) -> dict[str, Any]:
        """For training latents, whether the held-out videos are apart; for held-out latents, which these are."""
        if self.held_out_root is None:
            share = HELD_OUT_SHARE if self.held_out_contents is None else None
            return {"held_out_root": None, "held_out_share": share}
        root = "given" if self.split == "train" else str(Path(self.held_out_root).resolve())
        return {"held_out_root": root, "held_out_share": None}

    def cache_folder(self, fingerprint: str) -> Path:
        """The default folder of the cache, for the autoencoder with this fingerprint."""
        name = self.dataset if self.split == "train" else f"{self.dataset}-{self.split}"
        source = {}
        if self.dataset == "folder":  # of which there may be many
            source = {name: self.settings[name] for name in ("data_root", "held_out_root", "held_out_share")}
        source |= {name: value for name, value in self._choice.items() if value is not None}
        if source:
            name += "-" + hashlib.sha256(json.dumps(source).encode()).hexdigest()[:8]
        return CACHES / f"{name}-{fingerprint[:12]}"


@dataclass
class CacheLatentsConfig(CacheConfig):
    """Settings of the command that makes a cache."""

    output_dir: str | None = None
    """Folder of the cache; null takes the one that `python -m generator.train` uses by default."""
    device: str = "auto"
    """Where to encode, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""
    rebuild_cache: bool = False
    """Remove a cache that is in the folder, whatever it was made from, and encode anew."""


@dataclass
class ObjectiveConfig:
    """What the diffusion transformer is trained to predict, and from which noise levels."""

    kind: str = "flow"
    """"flow": rectified flow with logit-normal times, predicts noise - x_0. "flow_sample": the same flow and squared
    error of the velocity, but the model predicts x_0, from which the velocity follows (arXiv 2511.13720, with
    logit_mean 0.8 and logit_std 0.8; for latents 2605.27102). The others noise by 1000 DDPM steps at uniform times;
    "sample" predicts x_0, as in the paper, "epsilon" the noise, "v_prediction" the velocity sqrt(abar) noise -
    sqrt(1 - abar) x_0. It is the model's prediction_type."""
    label_dropout: float = 0.1
    """Share of samples that are trained with the null class, for classifier-free guidance. The paper drops 0.2."""
    logit_mean: float = 0.0
    """Mean of the logit of the noise level of "flow" and "flow_sample"; above 0 means more noise."""
    logit_std: float = 1.0
    """Standard deviation of the logit of the noise level of "flow" and "flow_sample"."""
    min_snr_gamma: float | None = None
    """Weigh the squared error of x_0 by min(SNR, gamma), whatever the DDPM kind predicts (arXiv 2303.09556, which takes
    5); null weighs the error of the prediction itself evenly. Not for "flow" and "flow_sample"."""
    contrastive_weight: float = 0.0
    """Keep the prediction away from what is right for another clip, drawn from the whole data set whatever its class:
    subtract this share of the squared error to it (arXiv 2506.05350, which takes 0.05); 0 leaves it out. Not for
    "epsilon", where nothing but noise would tell the other clip."""
    independent_times: bool = False
    """Draw a noise level for each latent, so that the model learns either latent given the other, too."""
    joint_share: float = 0.5
    """With `independent_times`: share of samples whose two latents have one noise level, as in ordinary sampling."""
    given_share: float = 0.25
    """With `independent_times`: share of samples in which one of the two latents, either with equal chance, is given:
    it enters clean with time 0 and takes no part in the loss. The other samples draw two independent noise levels."""
    history_share: float = 0.0
    """With `independent_times`: share of samples whose first frames of dynamics are given, clean with time 0 and no
    part of the loss, so that the model learns to go on from another clip (arXiv 2502.06764). Their number is drawn
    evenly from all that leave a frame to predict, in steps of the dynamics patch, whatever the shares above gave."""
    frame_share: float = 0.0
    """With `independent_times`: share of samples whose frames of dynamics have a noise level each, in steps of the
    dynamics patch (Diffusion Forcing, arXiv 2407.01392). Drawn together with `history_share`; no sample has both."""

    def __post_init__(self):
        check_kind("kind", self.kind)
        if not 0 <= self.label_dropout <= 1:
            raise UserError(f"label_dropout must be in [0, 1], got {self.label_dropout}")
        if self.logit_std <= 0:
            raise UserError(f"logit_std must be positive, got {self.logit_std}")
        if self.min_snr_gamma is not None:
            if self.kind in FLOW_KINDS:
                raise UserError(
                    f"min_snr_gamma={self.min_snr_gamma} is for the DDPM kinds: leave it out with kind={self.kind!r}"
                )
            if not self.min_snr_gamma > 0:
                raise UserError(f"min_snr_gamma must be positive, got {self.min_snr_gamma}")
        if not 0 <= self.contrastive_weight < 1:
            raise UserError(f"contrastive_weight must be in [0, 1), got {self.contrastive_weight}")
        if self.contrastive_weight and self.kind == "epsilon":
            raise UserError(
                f"contrastive_weight={self.contrastive_weight} keeps the prediction away from another clip, of which "
                "noise says nothing: leave it out with kind='epsilon'"
            )
        shares = self.joint_share, self.given_share
        if min(shares) < 0 or sum(shares) > 1:
            raise UserError(f"joint_share and given_share must be at least 0 and add up to at most 1, got {shares}")
        shares = self.history_share, self.frame_share
        if min(shares) < 0 or sum(shares) > 1:
            raise UserError(f"history_share and frame_share must be at least 0 and add up to at most 1, got {shares}")
        if self.frame_times and not self.independent_times:
            raise UserError(
                f"history_share and frame_share, got {shares}, draw times of the dynamics apart from the structure's: "
                "give --objective.independent_times true, too"
            )

    @property
    def frame_times(self) -> bool:
        """Whether frames of dynamics have times of their own."""
        return self.history_share + self.frame_share > 0


def check_kind(name: str, value: str) -> None:
    """Refuse a value that is not one of `KINDS`.

    Raises:
        UserError: naming the setting and its value.
    """
    if value not in KINDS:
        raise UserError(f"{name} must be one of {', '.join(KINDS)}, got {value!r}")


@dataclass
class TrainConfig(RunConfig, CacheConfig):
    """Settings of a stage-two run.

    Those of the model are in `generator.settings`. MAY_CHANGE is as in `RunConfig`.
    """

    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        RunConfig.MAY_CHANGE
        | CacheConfig.MAY_CHANGE
        | {"latent_cache", "rebuild_cache", "validate_every", "val_videos"}
        | {"sample_every", "sample_classes", "sample_steps", "sample_guidance", "sample_guidance_interval"}
    )

    latent_cache: str | None = None
    """Folder of the latent cache, made if there is none; outputs/latents/<dataset>-<autoencoder> by default. The cache
    of held-out videos is put beside it."""
    rebuild_cache: bool = False
    """Remove existing caches, whatever they were made from, and encode anew; a resumed run does not do it again."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What the model learns."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser and schedule."""
    lora_rank: int = 0
    """Train no weights of the model of `init_from`, but LoRA (arXiv 2106.09685): adapters of this rank beside them, and
    the rows of classes that it does not know. 0 trains the weights themselves."""
    lora_alpha: float | None = None
    """The adapters are scaled by it over the rank; null scales them by 1."""
    lora_targets: list[str] = field(default_factory=lambda: ["attention", "feed_forward"])
    """Parts of a block whose linears get adapters: attention, feed_forward, modulation, class_attention."""
    lora_replay: int = 0
    """Samples of the classes that the model knows, made by itself before the first step, for LoRA to train on beside
    the clips, each as often as a clip. Whatever is not of a new class is then to be predicted as without LoRA, so that
    the model keeps what it knew (arXiv 1705.08690, 1606.09282). The samples lie in replay/ of the run."""
    ema_decay: float = 0.9999
    """Decay of the moving average of the weights, which the pipeline gets; it starts lower and grows."""
    second_ema_decay: float | None = None
    """Keep a second moving average with this decay, and save a pipeline of it, too, in pipeline-ema2/."""
    sample_every: int = 1000
    """Steps between two previews, videos sampled for the loggers; the last step always has one."""
    sample_classes: int = 4
    """Classes of a preview, spread over all, one video each with a fixed seed."""
    sample_steps: int = 50
    """Scheduler steps of a preview."""
    sample_guidance: float = 5.0
    """Weight of classifier-free guidance in a preview; 1 turns it off."""
    sample_guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest noise level at which a preview is guided, from 0 (data) to 1 (noise)."""
    validate_every: int | None = None
    """Steps between two validations: losses on held-out videos, whose latents are cached, too; null never validates."""
    val_videos: int = 256
    """Held-out videos to validate on, at most."""

    def __post_init__(self):
        RunConfig.__post_init__(self)
        CacheConfig.__post_init__(self)
        check_least(self, 1, "sample_every", "sample_classes", "sample_steps", "validate_every", "val_videos")
        for name in ("ema_decay", "second_ema_decay"):
            decay = getattr(self, name)
            if decay is not None and not 0 <= decay < 1:
                raise UserError(f"{name} must lie in [0, 1), got {decay}")
        self._check_lora()
        low, high = self.sample_guidance_interval
        if not 0 <= low <= high <= 1:
            raise UserError(f"sample_guidance_interval must satisfy 0 <= low <= high <= 1, got {(low, high)}")

    def _check_lora(self) -> None:
        check_least(self, 0, "lora_rank", "lora_replay")
        if self.lora_replay and not self.lora_rank:
            raise UserError(f"lora_replay={self.lora_replay} is for LoRA: give a --lora-rank, too")
        if self.lora_alpha is not None and not self.lora_alpha > 0:
            raise UserError(f"lora_alpha must be positive or null, got {self.lora_alpha}")
        if not self.lora_targets or len(set(self.lora_targets)) < len(self.lora_targets):
            raise UserError(f"lora_targets must be different parts of a block, at least one, got {self.lora_targets}")
        if self.lora_rank and self.init_from is None:
            raise UserError(f"lora_rank={self.lora_rank} adapts a trained model: give one by --init-from")
        if self.lora_rank and self.init_missing:
            raise UserError(
                f"init_missing would change the model that lora_rank={self.lora_rank} adapts: leave it out; new "
                "classes need no leave"
            )

    @property
    def held_out(self) -> CacheConfig:
        """Config of the cache to validate on: the middle clips of held-out videos."""
        shared = {field.name: getattr(self, field.name) for field in fields(CacheConfig)}
        shared |= {"split": "val", "max_videos": self.val_videos, "clips_per_video": 1, "flip": False}
        return CacheConfig(**shared)
