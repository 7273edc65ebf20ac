"""The work of `python -m benchmarks.sprites_judge`."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict

import torch
from einops import rearrange
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from autoencoder.checkpoint import fingerprint
from autoencoder.common.device import resolve_device, to_device
from autoencoder.common.files import atomic_folder
from autoencoder.common.progress import progress_bar
from autoencoder.common.seeding import derive_seed
from autoencoder.data.clips import to_video
from autoencoder.data.sprites import Sprites
from autoencoder.metrics.sprites_judge import SIDE, Readings, SpritesJudge, save_judge
from autoencoder.metrics.sprites_scores import SpritesScores, score
from benchmarks.report import environment
from benchmarks.sprites_judge import JudgeConfig

WEIGHT_DECAY = 1e-2
LARGEST_BLUR = 1.2  # standard deviation in pixels of frames of 32 x 32
LARGEST_NOISE = 0.1  # standard deviation of a video in [-1, 1]
BLUR_WIDTH = 9
TESTED_AT_A_TIME = 256


def clip_batches(sprites: Sprites, order: torch.Tensor, batch_size: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Clips uint8 (b, T, H, W, 3), actions (b,) and attributes (b, 4), by index in the order given."""
    for indices in order.split(batch_size):
        chosen = indices.tolist()
        clips = torch.stack([sprites.clip(index, None) for index in chosen])
        actions = torch.tensor([sprites.label(index) for index in chosen])
        yield clips, actions, torch.tensor([sprites.attributes(index) for index in chosen])


def judge_loss(logits: Readings, actions: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
    """Cross entropies of the action and of every attribute, summed.

    Args:
        logits: of B clips.
        actions: int64 (B,).
        attributes: int64 (B, attributes).
    """
    of_attributes = F.cross_entropy(logits.attributes.flatten(0, 1), attributes.flatten())  # their mean
    return F.cross_entropy(logits.action, actions) + attributes.shape[1] * of_attributes


def degrade(video: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur and noise of a strength drawn at random, the same for all clips, in the size that the judge looks at.

    Decoded clips are softer than real ones; a judge that has only seen these would take softness for another skin.

    Args:
        video: float (B, 3, T, H, W) in [-1, 1].
        generator: on the CPU.

    Returns:
        (B, 3, T, 32, 32).
    """
    blur, noise = (torch.rand(2, generator=generator) * torch.tensor([LARGEST_BLUR, LARGEST_NOISE])).tolist()
    frames = F.interpolate(rearrange(video, "b c t h w -> (b t) c h w"), size=(SIDE, SIDE), mode="area")
    frames = gaussian_blur(frames, [BLUR_WIDTH, BLUR_WIDTH], [max(blur, 0.05)] * 2)  # 0.05 changes nothing
    frames = frames + noise * torch.randn(frames.shape, generator=generator).to(frames.device)
    return rearrange(frames, "(b t) c h w -> b c t h w", b=len(video))


def train_judge(sprites: Sprites, config: JudgeConfig, device: torch.device) -> SpritesJudge:
    """Train a judge on degraded copies of the training clips; returns it in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "judge"))
        judge = SpritesJudge(num_actions=len(sprites.class_names), width=config.width)
    judge.to(device, memory_format=torch.channels_last).train()
    shuffle = torch.Generator().manual_seed(derive_seed(config.seed, "order of the clips"))
    order = torch.cat([torch.randperm(len(sprites), generator=shuffle) for _ in range(config.epochs)])
    steps = -(-len(order) // config.batch_size)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps)
    batches = clip_batches(sprites, order, config.batch_size)
    changes = torch.Generator().manual_seed(derive_seed(config.seed, "blur and noise"))
    for batch in progress_bar(steps, "judge", "step", over=batches):
        clips, actions, attributes = (to_device(tensor, device) for tensor in batch)
        optimizer.zero_grad()
        judge_loss(judge(degrade(to_video(clips), changes)), actions, attributes).backward()
        optimizer.step()
        schedule.step()
    return judge.eval()


def measure_judge(judge: SpritesJudge, sprites: Sprites) -> SpritesScores:
    """The judge's own scores on clips whose action and attributes are known."""
    parts = []
    for clips, actions, attributes in clip_batches(sprites, torch.arange(len(sprites)), TESTED_AT_A_TIME):
        parts.append((*judge.read(clips), actions, attributes))
    action, attribute, actions, attributes = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return score(Readings(action, attribute), actions, attributes)


def split_fingerprint(sprites: Sprites) -> str:
    """SHA-256, in hexadecimal, over label, attributes and pixels of all clips of a part of the data set."""
    digest = hashlib.sha256()
    for clips, actions, attributes in clip_batches(sprites, torch.arange(len(sprites)), TESTED_AT_A_TIME):
        for tensor in (clips, actions, attributes):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()


def execute(config: JudgeConfig) -> None:
    """Train, measure, print and write."""
    device = resolve_device(config.device)
    train, test = (Sprites(config.data_root, split=split) for split in ("train", "val"))
    print(f"judge of sprites: {len(train):,} training clips, {len(test):,} held-out clips")
    start = time.perf_counter()
    judge = train_judge(train, config, device)
    seconds = time.perf_counter() - start
    scores = measure_judge(judge, test)
    settings = {name: str(value) if name in ("out", "data_root") else value for name, value in vars(config).items()}
    record = {
        "scores": asdict(scores),
        "train_clips": split_fingerprint(train),
        "test_clips": split_fingerprint(test),
        "weights": fingerprint(judge),
        "settings": settings,
        "training_seconds": seconds,
        **environment(device),
    }
    with atomic_folder(config.out) as temporary:
        save_judge(judge, temporary, record)
    shares = {"action": scores.action, **scores.attributes}
    print(f"held-out accuracy: {', '.join(f'{name} {share:.2%}' for name, share in shares.items())}")
    print(f"{seconds:.0f} s of training; wrote the judge to {config.out}")
