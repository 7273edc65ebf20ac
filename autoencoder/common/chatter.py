"""Hiding messages of libraries that are of no use to whoever runs a command."""

import logging
import re
import warnings

# Beginnings of log messages, by the logger that writes them.
CHATTER = {
    "diffusers.models.modeling_utils": (
        "Attention backends are an experimental feature",
        "Some weights of",  # which `whole.ReadWhole` refuses
        "An error occurred while trying to fetch",  # and is then raised
    ),
    "lightning.pytorch.utilities.rank_zero": ("GPU available", "TPU available", "💡 Tip", "`Trainer.fit` stopped"),
    "torch.distributed.elastic.multiprocessing.redirects": ("NOTE: Redirects are currently not supported",),
}
# Beginnings of warnings that only a library's own authors can heed, by the module that raises them.
DEPRECATIONS = {
    "lightning": "`isinstance(treespec, LeafSpec)` is deprecated",
    "diffusers": "__array__ implementation doesn't accept a copy keyword",
}


def silence_chatter() -> None:
    """Hide the messages of `CHATTER` and `DEPRECATIONS` in this process; all others are shown as before."""
    for name, beginnings in CHATTER.items():
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Beginnings) for one in logger.filters):
            logger.addFilter(_Beginnings(beginnings))
    for module, beginning in DEPRECATIONS.items():
        warnings.filterwarnings("ignore", message=re.escape(beginning), module=rf"{module}\.")


def silence_empty_casts() -> None:
    """Hide diffusers' warning about modules to be kept in float32 when a model is cast and there are none."""
    logger = logging.getLogger("diffusers.models.modeling_utils")
    if not any(isinstance(one, _EmptyCasts) for one in logger.filters):
        logger.addFilter(_EmptyCasts())


class _EmptyCasts(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show the message."""
        return "should be kept in float32: []." not in record.getMessage()


class _Beginnings(logging.Filter):
    """Drops messages that begin in one of the given ways."""

    def __init__(self, beginnings: tuple[str, ...]):
        super().__init__()
        self.beginnings = beginnings

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show the message."""
        return not record.getMessage().startswith(self.beginnings)
