"""Progress bars that read well in a terminal and in a log file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm as terminal_bar
from tqdm.std import tqdm as plain_bar

SECONDS_BETWEEN_LINES = 30.0  # of a bar whose output goes into a file


class LineBar(plain_bar):
    """A bar that writes a whole line every half minute, for output that goes into a file."""

    def __init__(self, *args: Any, **options: Any):
        seconds = {"mininterval": SECONDS_BETWEEN_LINES, "maxinterval": 2 * SECONDS_BETWEEN_LINES}
        super().__init__(*args, ascii=True, ncols=100, **(options | seconds))

    @staticmethod
    def status_printer(file):
        """Write every state of the bar as a line of its own; the empty ones that clear a terminal are left out."""

        def write_line(text: str) -> None:
            if text.strip():
                file.write(f"{text.rstrip()}\n")
                file.flush()

        return write_line

    def close(self) -> None:
        """Write the last state, without the line end that a terminal needs behind a bar."""
        if self.disable:
            return
        if self.leave and self.last_print_n != self.n:
            self.display()
        self.disable = True
        self._decr_instances(self)

    def moveto(self, n: int) -> None:
        """Lines need no place on a screen."""


def progress_bar(
    total: int | None, description: str, unit: str, initial: int = 0, show: bool = True, over: Iterable | None = None
) -> plain_bar:
    """A tqdm bar on standard error: moving in a terminal or notebook, else a line every half minute.

    Args:
        total: units in all; None takes the length of `over`.
        description: text before the bar.
        unit: the work's unit, such as "step".
        initial: units that were done before.
        show: whether to show it at all; False for all processes but the first.
        over: iterable that the bar wraps; None leaves calling `update` to the caller.
    """
    is_watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    bar = terminal_bar if is_watched else LineBar
    return bar(
        over, total=total, initial=initial, desc=description, unit=unit, disable=not show, dynamic_ncols=is_watched
    )
