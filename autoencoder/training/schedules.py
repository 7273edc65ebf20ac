"""Shares that rise during a training."""


def risen(step: int, start: int, warmup_steps: int) -> float:
    """0 for the first `start` steps, then rising linearly to 1 over `warmup_steps`.

    Args:
        step: numbered from 1.
        start: the last step of 0.
        warmup_steps: steps until 1 is reached; with 0 or 1 the step after `start` has it.
    """
    return min(1.0, max(0, step - start) / max(1, warmup_steps))
