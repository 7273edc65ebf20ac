"""Errors that the user of a command can mend: it ends with one line for these, with a traceback for all others."""


class UserError(ValueError):
    """A setting, an argument or a file that must be another; the message names it and says what would be right."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that must be there is not."""


class ExistingFileError(UserError, FileExistsError):
    """A file or folder is there that would be overwritten."""


class NumericalError(UserError, FloatingPointError):
    """The arithmetic left the range of numbers, as when a training diverges."""


def message_of(error: Exception) -> str:
    """What an error says; of one that a worker process of a data loader handed on, without that worker's traceback."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        return text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return text
