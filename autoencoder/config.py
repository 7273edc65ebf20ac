"""The config of stage one."""

from dataclasses import dataclass, field

from autoencoder.data import DataConfig
from autoencoder.optimization import OptimizerConfig
from autoencoder.run import RunConfig


@dataclass
class TrainConfig(RunConfig, DataConfig):
    """Everything a stage-one run is a function of, but the model."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser and schedule."""
    kl_weight: float = 1e-3
    """Weight of the KL divergence."""
    validate_every: int = 500
    """Steps between two validations; the last step is always validated."""
    num_held_out: int = 64
    """Held-out clips to validate on."""
    accelerator: str = "auto"
    """Lightning accelerator: auto, cpu, gpu."""
    devices: int = 1
    """Processes per node, one device each; more than one train with DDP."""
    num_nodes: int = 1
    """Nodes."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, which saves memory."""

    def __post_init__(self):
        RunConfig.__post_init__(self)
        DataConfig.__post_init__(self)
        for name in ("validate_every", "num_held_out", "devices", "num_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.kl_weight < 0:
            raise ValueError(f"kl_weight must be at least 0, got {self.kl_weight}")
        per_process, rest = divmod(self.batch_size, self.devices * self.num_nodes)
        if rest or per_process % self.accumulate:
            raise ValueError(
                f"batch_size={self.batch_size} cannot be split over {self.devices * self.num_nodes} processes "
                f"with {self.accumulate} micro-batches each"
            )
