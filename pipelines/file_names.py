"""Names of files for classes, whatever the classes are called."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

MAX_BYTES = (
    100  # of a name, which gets a seed, an ending and, while it is written, more beside it; file systems take 255
)


def class_file_names(class_names: Sequence[str]) -> list[str]:
    """A name for the files of every class: like its own as far as a file can have it, and unlike the others.

    Letters, digits, `.`, `-` and `_` stay, anything else becomes `_`. Where two classes would share a file, also on a
    file system that does not tell upper case from lower, both get their ids behind their names.

    Args:
        class_names: of all classes, in the order of their ids.
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
