"""Which weights and settings of a trained model fit another model, and what is said of the others."""

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch

from autoencoder.common.errors import UserError, first_few
from autoencoder.common.launchers import is_first_process
from autoencoder.common.layers import flag
from autoencoder.common.parser import as_yaml

NUM_LISTED = 5  # in an error; what begins anew is listed in full

Weights = dict[str, torch.Tensor]


class Fit(NamedTuple):
    """The weights of a model after others have been taken into it, and those of either that have no counterpart.

    Attributes:
        weights: all weights of the model: the given ones where name and shape are the same, else its own.
        misfits: those that have no counterpart of their shape in the other model, with both shapes, by their module.
    """

    weights: Weights
    misfits: list[str]


def fit_weights(own: Weights, given: Weights) -> Fit:
    """Take the given weights whose name and shape are those of a model.

    Args:
        own: state dict of the model.
        given: state dict of the trained one.
    """
    taken = {name: given[name] for name in own.keys() & given.keys() if own[name].shape == given[name].shape}
    unlike = sorted((own.keys() | given.keys()) - taken.keys())
    modules = groupby(unlike, key=lambda name: ".".join(name.split(".")[:2]))
    return Fit(own | taken, [_told(module, list(names), given, own) for module, names in modules])


def _told(module: str, names: list[str], given: Weights, own: Weights) -> str:
    first = f"{names[0]} {_shape(given, names[0])} for {_shape(own, names[0])}"
    return first if len(names) == 1 else f"{len(names)} weights of {module}, such as {first}"


def _shape(weights: Weights, name: str) -> str:
    return str(tuple(weights[name].shape)) if name in weights else "none"


def unlike_settings(own: Mapping[str, Any], given: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The settings of a trained model that are others than those of a model, by name.

    Args:
        own: config of the model.
        given: config of the trained one.
        names: the settings that are compared.
    """
    return {name: given[name] for name in names if as_yaml(own[name]) != as_yaml(given[name])}


def check_misfits(source: object, misfits: Sequence[str], settings: Mapping[str, Any], as_it_is: bool = False) -> None:
    """Refuse what does not fit.

    Args:
        source: the trained model, for the message.
        misfits: what does not fit, each in a few words.
        settings: the settings of the model that are others there, as `unlike_settings` returns them.
        as_it_is: whether the model is LoRA's base, in which nothing may begin anew.

    Raises:
        UserError: if something does not fit; the message says which settings would be right.
    """
    misfits = _with_settings(misfits, settings)
    if not misfits:
        return
    listed = first_few(misfits, NUM_LISTED, separator="; ")
    right = " ".join(f"{flag(f'model.{name}')} {as_yaml(value)}".replace(", ", ",") for name, value in settings.items())
    if as_it_is:
        remedy = "LoRA adapts a model as it is" + f": give {right}" * bool(right)
    else:
        begin = f"Give {right}, or let" if right else "Let"
        remedy = f"{begin} what does not fit begin anew by --init-missing"
    raise UserError(f"init_from={source}: the model there does not fit this run: {listed}. {remedy}")


def tell_misfits(source: object, misfits: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Say what begins anew because it does not fit, as for `check_misfits`; the first process prints that."""
    if is_first_process():
        listed = "; ".join(_with_settings(misfits, settings))
        anew = f"begins anew where that does not fit: {listed}" if listed else "all fits"
        print(f"starts from {source}: {anew}")


def _with_settings(misfits: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    return [f"model.{name}={as_yaml(value)} there" for name, value in settings.items()] + list(misfits)
