"""Errors that the user of a command can mend: the command prints one line for these, a traceback for all others."""

from collections.abc import Iterable


class UserError(ValueError):
    """A setting, an argument or a file is not usable; the message names it and says what would be right."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that is needed does not exist."""


class ExistingFileError(UserError, FileExistsError):
    """A file or folder exists that would be overwritten."""


class NumericalError(UserError, FloatingPointError):
    """The arithmetic left the range of numbers, as when a training diverges."""


def check_least(settings: object, least: int, *names: str, group: str = "") -> None:
    """Check that fields of a config are not below a number; None passes.

    Args:
        settings: the config.
        least: the number.
        names: of the fields.
        group: what the user writes before their names, such as "exchange.".

    Raises:
        UserError: naming the first field that is, or is no number at all, and its value.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value >= least:
            raise UserError(f"{group}{name} must be at least {least}, got {value}")


def first_few(names: Iterable[str], count: int = 3, separator: str = ", ") -> str:
    """The first names for a message, or "nothing"; names of files keep to UTF-8, with other bytes escaped."""
    names = [name.encode(errors="backslashreplace").decode() for name in names]
    more = f"{separator}... ({len(names)} in all)" if len(names) > count else ""
    return separator.join(names[:count]) + more if names else "nothing"


def message_of(error: Exception) -> str:
    """The message of an error; if a data loader's worker process raised it, without that worker's traceback."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        return text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return text
