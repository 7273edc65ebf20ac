"""Normalising the arguments of a pipeline call: classes, counts and generators in any of their accepted forms."""

import difflib
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import FrozenDict

from autoencoder.common.errors import UserError

ClassId = int | str | np.integer | np.ndarray | torch.Tensor
Seed = int | torch.Generator
SEEDS = range(-(2**63), 2**64)  # what torch takes


def plain(value: Any) -> Any:
    """Convert numbers, arrays and strings of numpy and torch to those, or lists of those, of Python."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic | torch.Tensor) else value


def describe(value: Any) -> str:
    """Describe a wrong argument for a message; arrays and tensors by dtype and shape, never by their numbers."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return f"{type(value).__name__} {value.dtype} {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        inside = ", ".join(dict.fromkeys(type(item).__name__ for item in value))
        return f"a {type(value).__name__} of {len(value)}" + (f" ({inside})" if inside else "")
    return f"{value!r:.80}"


def check_count(name: str, value: Any) -> int:
    """Check that an argument is a whole number of at least 1, and return it as an int.

    Raises:
        UserError: naming the argument and its value.
    """
    number = plain(value)
    if not isinstance(number, int) or isinstance(number, bool):
        raise UserError(f"{name} must be a whole number, got {describe(value)}")
    if number < 1:
        raise UserError(f"{name} must be at least 1, got {number}")
    return number


def class_labels(class_id: ClassId | Sequence[ClassId], config: FrozenDict) -> list[int]:
    """The 0-based ids of one class or of several.

    Args:
        class_id: an int, a name or an id as text; a list, tuple, array or tensor of these.
        config: the transformer's config, with its number of classes and their names.

    Raises:
        UserError: for an unknown class or no class.
        TypeError: for anything else, such as a bool, a float or a nested list.
    """
    names = [(config.id2label or {}).get(str(index), "") for index in range(config.num_classes)]
    given = plain(class_id)
    given = list(given) if isinstance(given, Sequence) and not isinstance(given, str | bytes) else [given]
    if not given:
        raise UserError("class_id is an empty list: nothing to generate")
    return [_label(plain(value), class_id, names) for value in given]


def _label(value: Any, class_id: Any, names: list[str]) -> int:
    if isinstance(value, str):
        return _label_of_name(value, names)
    if not isinstance(value, int) or isinstance(value, bool):
        item = f", and in it {describe(value)}" if isinstance(class_id, list | tuple) else ""
        raise TypeError(f"class_id must be an id, a class name, or a list of these, got {describe(class_id)}{item}")
    if not 0 <= value < len(names):
        nearest = range(len(names))[-3:] if value > 0 else range(len(names))[:3]
        nearest = ", ".join(f"{near} {names[near]}".strip() for near in nearest)
        raise UserError(f"class_id={value} is not in 0 to {len(names) - 1}; the nearest are: {nearest}")
    return value


def _label_of_name(name: str, names: list[str]) -> int:
    if name in names:
        return names.index(name)
    labels = {known.casefold(): index for index, known in enumerate(names) if known}
    if name.casefold() in labels:
        return labels[name.casefold()]
    if name.strip().removeprefix("-").isdecimal():
        return _label(int(name), name, names)
    if not labels:
        raise UserError(f"the transformer has no class names: give an id in 0 to {len(names) - 1} for {name!r}")
    nearest = difflib.get_close_matches(name.casefold(), labels, n=3, cutoff=0.0)
    nearest = ", ".join(f"{names[labels[key]]} ({labels[key]})" for key in nearest)
    raise UserError(f"there is no class {name!r}; the nearest are: {nearest}")


def make_generators(
    generator: Seed | Sequence[Seed] | None, batch_size: int
) -> torch.Generator | list[torch.Generator] | None:
    """The generators of the noise of B videos.

    Args:
        generator: a list, tuple or array with a generator or a seed for every video; an int seed, from which video i
            takes seed + i; one generator for the whole batch, or None for torch's own.
        batch_size: number of videos B.

    Raises:
        UserError: for another number of generators, or a seed that torch cannot take.
        TypeError: for anything else.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    given = plain(generator)
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        seed = _seed(given)
        return [_generator(seed + index) for index in range(batch_size)]
    if len(given) != batch_size:
        raise UserError(
            f"generator is a {type(generator).__name__} of {len(given)} for {batch_size} videos: give one per video"
        )
    generators = [item if isinstance(item, torch.Generator) else _generator(_seed(plain(item))) for item in given]
    devices = {item.device.type for item in generators}
    if len(devices) > 1:
        raise UserError(
            f"generator: the generators lie on {' and '.join(sorted(devices))}, seeds on cpu: put them on one device"
        )
    return generators


def _seed(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"generator must be a torch.Generator, an int seed, or a list of these, got {describe(value)}")
    return operator.index(value)


def _generator(seed: int) -> torch.Generator:
    if seed not in SEEDS:
        raise UserError(f"generator: the seed {seed} is not in {SEEDS.start} to {SEEDS.stop - 1}")
    return torch.Generator().manual_seed(seed)  # on the CPU, so that a seed means the same noise on every device
