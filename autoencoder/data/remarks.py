"""Remarks on what a data set leaves out."""

import sys

from autoencoder.common.launchers import is_first_process

_printed: set[str] = set()


def print_once(remark: str) -> None:
    """Print a remark to stderr, in the first process and only the first time, however often the data are listed."""
    if remark not in _printed and is_first_process():
        _printed.add(remark)
        print(remark, file=sys.stderr, flush=True)
