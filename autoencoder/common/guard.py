"""Guarding against gradients that are not finite: the step is skipped, and the run stops before anything is written."""

import torch
from torch import nn

from autoencoder.common.errors import NumericalError
from autoencoder.common.optimization import Muon


def skip_if(optimizer: torch.optim.Optimizer, is_bad: torch.Tensor) -> bool:
    """Make an optimiser skip its next step on the device if `is_bad` is 1, through its attribute `found_inf`.

    torch's fused optimisers read it for gradient scaling, and `Muon` reads it, too.

    Args:
        optimizer: whose step follows.
        is_bad: float32 (), 0 or 1.

    Returns:
        Whether the optimiser does that; if not, or on a CPU, the caller must decide.
    """
    can_skip = isinstance(optimizer, Muon) or bool(optimizer.param_groups[0].get("fused"))
    can_skip = can_skip and is_bad.device.type != "cpu"
    optimizer.found_inf = is_bad if can_skip else None
    return can_skip


class FiniteGuard:
    """Detects steps that are not finite on the device, without making the host wait.

    Reading whether a step is finite would make the host wait for the device in every step. So the device keeps a record
    of the first bad step, which the optimisers skip; the host reads the record where it waits anyway, that is when
    scalars are logged and before anything is saved or validated, and stops the run there. On a CPU, where reading costs
    nothing, it can be read in every step.

    Args:
        names: the gradient norms that steps may have, in the order of the message.
    """

    def __init__(self, *names: str):
        self.names = names
        self._record: torch.Tensor | None = None

    def watch(self, step: int, loss: torch.Tensor, norms: dict[str, torch.Tensor]) -> torch.Tensor:
        """Record a step on the device.

        Args:
            step: its number, from 1.
            loss: (), for the message; it may be that of this process alone.
            norms: gradient norms, () each, of the first of `names`; the same in all processes, so all skip the same
                steps.

        Returns:
            float32 (), 1 if the step must be skipped and else 0.
        """
        stacked = torch.stack([norm.float() for norm in norms.values()])
        is_bad = (~stacked.isfinite()).any().float()
        if self._record is None:
            self._record = torch.zeros(2 + len(self.names), device=stacked.device)  # step, loss, norms
        values = torch.cat([step * is_bad[None], loss.float()[None], stacked])
        values = nn.functional.pad(values, (0, len(self._record) - len(values)))
        self._record = torch.where(self._record[0] > 0, self._record, values)
        return is_bad

    def check(self) -> None:
        """Wait for the device, and stop the run if a step since the last check was not finite.

        Raises:
            NumericalError: naming the first such step.
        """
        if self._record is None:
            return
        step, loss, *norms = self._record.tolist()
        if step >= 1:
            values = ", ".join(f"{name} {norm}" for name, norm in zip(self.names, norms, strict=True))
            raise NumericalError(
                f"step {int(step)}: the loss is {loss}, {values}; the run stops, the last checkpoint is good. "
                "A lower optimizer.learning_rate or precision=fp32 may help"
            )
