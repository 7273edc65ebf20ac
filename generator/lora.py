"""LoRA by peft (arXiv 2106.09685): low-rank adapters beside a transformer's frozen weights, and rows of new classes.

What is trained is an adapter of linears in the blocks and, in the class embedding, the rows of classes that the base
does not have. All weights of the base keep their bits.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch import nn

from autoencoder.common.errors import UserError
from generator.dit import VidTwinDiT
from generator.objective import NoisyBatch

ADAPTER = "default"  # peft's name of the adapter that a run trains
EMBEDDING = "class_embedding"


def check_peft() -> None:
    """Refuse LoRA where peft is not installed.

    Raises:
        UserError: saying how to install it.
    """
    if find_spec("peft") is None:
        raise UserError('LoRA is done by the library peft, which is not installed: pip install "vidtwin[lora]"')


def target_modules(model: VidTwinDiT, targets: Sequence[str], rank: int) -> list[str]:
    """The names of all linears in the given parts of the blocks.

    Args:
        model: without adapters.
        targets: parts of a block, as in `TrainConfig.lora_targets`.
        rank: of the adapters that these are to get.

    Raises:
        UserError: if the blocks of the model have no such part, or an adapter would have a rank that its linear cannot.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    parts = {name: name.split(".") for name in linears}
    of_blocks = {name: path[2] for name, path in parts.items() if path[0] == "blocks"}
    if absent := [target for target in targets if target not in of_blocks.values()]:
        there = ", ".join(dict.fromkeys(of_blocks.values()))
        raise UserError(f"lora_targets: the blocks of this model have no {absent[0]!r}; they have {there}")
    names = [name for name, part in of_blocks.items() if part in targets]
    for name in names:
        if rank > (most := min(linears[name].weight.shape)):
            raise UserError(f"lora_rank={rank} must be at most {most}, the rank that {name} of this model can have")
    return names


def add_lora(
    model: VidTwinDiT, rank: int, alpha: float | None, targets: Sequence[str], new_classes: Sequence[str]
) -> None:
    """Freeze a model, and give it what LoRA trains: adapters, which change nothing at first, and rows of new classes.

    A new class begins as the mean of the others.

    Args:
        model: gets them.
        rank: of the adapters, at least 1.
        alpha: the adapters are scaled by it over the rank; None scales by 1.
        targets: as in `target_modules`.
        new_classes: names of classes that the model does not have.

    Raises:
        UserError: as `target_modules` and `VidTwinDiT.add_classes`.
    """
    from peft import LoraConfig

    modules, known = target_modules(model, targets, rank), model.config.num_classes
    mean = model.class_embedding.weight[:known].detach().mean(dim=0)  # (class_dim,)
    model.add_classes(new_classes, mean.expand(len(new_classes), -1))
    rows = list(range(known, model.config.num_classes))
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        target_modules=modules,
        trainable_token_indices={EMBEDDING: rows} if rows else None,
    )
    model.requires_grad_(False)
    model.add_adapter(config, ADAPTER)


@torch.no_grad()
def as_the_base(model: VidTwinDiT, batch: NoisyBatch) -> NoisyBatch:
    """A batch whose targets are what the base predicts, but for the samples of new classes.

    Args:
        model: prepared by `add_lora`.
        batch: any, on the model's device.
    """
    rows = (model.peft_config[ADAPTER].trainable_token_indices or {}).get(EMBEDDING, [])
    model.disable_adapters()
    prediction = model(batch.tokens, batch.timestep, batch.labels).sample  # (B, N, D)
    model.enable_adapters()
    is_new = torch.isin(batch.labels, torch.tensor(rows, device=batch.labels.device))[:, None, None]  # (B, 1, 1)
    return replace(batch, target=torch.where(is_new, batch.target, prediction.to(batch.target.dtype)))


def same_form(model: VidTwinDiT) -> VidTwinDiT:
    """A model of the same config and with the same adapters, whose weights are yet to be loaded."""
    with torch.random.fork_rng(devices=[]):
        copy = VidTwinDiT.from_config(model.config)
        for name, config in model.peft_config.items():
            copy.add_adapter(deepcopy(config), name)
    return copy


@contextmanager
def keeping_base(model: VidTwinDiT, source: object) -> Iterator[None]:
    """Refuse weights, loaded in the block, whose frozen ones are others than those that the model has.

    Raises:
        UserError: naming the source of the weights.
    """
    before = _frozen_digest(model)
    yield
    if _frozen_digest(model) != before:
        raise UserError(f"{source} adapts another model than the one that --init-from names now: give that one")


def _frozen_digest(model: nn.Module) -> str:
    """SHA-256, in hexadecimal, over the names and bytes of all weights that are not trained."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
