"""Libraries' remarks to nobody are hidden; everything else they say is shown."""

import logging
import warnings

import pytest

from autoencoder.common.chatter import CHATTER, DEPRECATIONS, silence_chatter


@pytest.mark.parametrize("name", CHATTER)
def test_chatter_is_hidden_and_the_rest_is_not(name, caplog):
    silence_chatter()
    logger = logging.getLogger(name)
    handler = caplog.handler
    logger.addHandler(handler)
    try:
        for beginning in CHATTER[name]:
            logger.warning("%s and more", beginning)
        logger.warning("the disk is on fire")
    finally:
        logger.removeHandler(handler)
    assert {record.getMessage() for record in caplog.records} == {"the disk is on fire"}


@pytest.mark.parametrize("module", DEPRECATIONS)
def test_deprecations_inside_a_library_are_hidden(module):
    place = {"filename": "there.py", "lineno": 1}
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        silence_chatter()
        message = f"{DEPRECATIONS[module]}, use another"
        warnings.warn_explicit(message, FutureWarning, module=f"{module}.inner.part", **place)
        warnings.warn_explicit(message, FutureWarning, module="somewhere_else", **place)
        warnings.warn_explicit("something is wrong", FutureWarning, module=f"{module}.inner.part", **place)
    assert len(shown) == 2
