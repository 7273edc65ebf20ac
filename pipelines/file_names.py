"""File names for classes of any name."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

MAX_BYTES = 100  # of a name, to which seed, ending and a temporary mark are added; file systems take 255


def class_file_names(class_names: Sequence[str]) -> list[str]:
    """File names of all classes, all different and each as close to the class name as possible.

    Letters, digits, `.`, `-` and `_` stay, anything else becomes `_`. If two classes would share a file, also on a file
    system that ignores case, both get their ids appended.

    Args:
        class_names: names of all classes, in the order of their ids.
    """
    stems = [_cleaned(name) for name in class_names]
    while True:
        counts = Counter(map(_as_file_systems_compare, stems))
        shared = {index for index, stem in enumerate(stems) if counts[_as_file_systems_compare(stem)] > 1}
        if not shared:
            return stems
        stems = [f"{stem}-{index}" if index in shared else stem for index, stem in enumerate(stems)]


def _cleaned(name: str) -> str:
    text = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name)).lstrip(".")
    return text.encode()[:MAX_BYTES].decode(errors="ignore") or "class"


def _as_file_systems_compare(stem: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", stem).casefold())
