"""Shares that rise or fall during a training."""


def risen(step: int, start: int, warmup_steps: int) -> float:
    """0 for the first `start` steps, then rising linearly to 1 over `warmup_steps`.

    Args:
        step: numbered from 1.
        start: the last step of 0.
        warmup_steps: steps until 1 is reached; with 0 or 1 the step after `start` has it.
    """
    return min(1.0, max(0, step - start) / max(1, warmup_steps))


def remaining(step: int, steps: int | None, decay_steps: int) -> float:
    """1 for the first `steps` steps, then falling linearly to 0 over `decay_steps`.

    Args:
        step: numbered from 1.
        steps: the last step of 1; None keeps it to the end.
        decay_steps: steps until 0 is reached; with 0 or 1 the step after `steps` has it.
    """
    return 1.0 if steps is None else 1 - risen(step, steps, decay_steps)
