"""Choosing among listed videos by the names of their classes and contents."""

import unicodedata
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches

import numpy as np

from autoencoder.common.errors import UserError, first_few
from autoencoder.data.listing import Listing


def composed(name: str) -> str:
    """The name with each accent in its letter, as it is typed; file systems of macOS keep the two apart."""
    return unicodedata.normalize("NFC", name)


def find_classes(
    names: Sequence[str], class_names: Sequence[str], where: str, fold: Callable[[str], str] = composed
) -> list[int]:
    """Places of classes in `class_names`, ascending.

    Args:
        names: of the classes.
        class_names: of all classes.
        where: whose classes they are, for the message.
        fold: names are the same that this maps to the same.

    Raises:
        UserError: if there is no such class; the message lists the nearest names, or those that there are.
    """
    places = {fold(name): place for place, name in enumerate(class_names)}
    unknown = [
        f"no class {name!r}{_nearest(fold(name), {known: class_names[place] for known, place in places.items()})}"
        for name in names
        if fold(name) not in places
    ]
    if unknown:
        raise UserError(f"{where} has {'; '.join(unknown)}")
    return sorted(places[fold(name)] for name in names)


def find_contents(
    names: Collection[str],
    content_names: Sequence[str],
    where: str,
    spellings: Callable[[str], tuple[str, ...]] = lambda word: (word,),
) -> np.ndarray:
    """Whether each content is one of those named, bool (number of contents,).

    Args:
        names: of contents.
        content_names: of all contents.
        where: whose contents they are, for the message.
        spellings: all names of the content with a word.

    Raises:
        UserError: if a name is that of no content; the message lists the nearest ones, or those that there are.
    """
    wanted = {composed(name) for name in names}
    unknown = set(wanted)
    is_named = np.zeros(len(content_names), dtype=bool)
    for place, word in enumerate(content_names):
        found = wanted.intersection(map(composed, spellings(word)))
        is_named[place] = bool(found)
        unknown -= found
    if unknown:
        known = {name: word if name == word.lower() else name for word in content_names for name in spellings(word)}
        problems = [f"no content {name!r}{_nearest(name, known)}" for name in map(composed, names) if name in unknown]
        raise UserError(f"{where} has {'; '.join(problems)}")
    return is_named


def of_named_contents(listing: Listing, is_named: np.ndarray) -> np.ndarray:
    """Whether each video is of one of some contents, bool (N,).

    Args:
        listing: the videos; contents must be known.
        is_named: bool (number of contents,), as `find_contents` returns it.
    """
    return np.append(is_named, False)[listing.contents]  # the last one is for those whose content is not known


def classes_without_video(listing: Listing) -> list[str]:
    """Names of the classes that none of the listed videos is of."""
    labels = () if listing.labels is None else np.unique(listing.labels)
    return [name for place, name in enumerate(listing.class_names) if place not in labels]


def count_alone(listing: Listing) -> int:
    """How many of the listed videos have no other one of the same content, or a content that is not known."""
    if listing.contents is None:
        return len(listing.paths)
    known = listing.contents[listing.contents >= 0]
    return len(listing.paths) - len(known) + int((np.bincount(known) == 1).sum())


def contents_of(listing: Listing) -> set[str]:
    """The words of the contents that the listed videos are of."""
    if listing.contents is None:
        return set()
    return {listing.content_names[content] for content in np.unique(listing.contents).tolist() if content >= 0}


def _nearest(name: str, known: dict[str, str]) -> str:
    """The end of a message: names like an unknown one, else all, as they are to be shown by how they are compared."""
    matches = get_close_matches(name, known, n=3, cutoff=0.4)
    if matches:
        return f"; nearest: {', '.join(known[match] for match in matches)}"
    return f"; known: {first_few(sorted(set(known.values())), 10)}"
