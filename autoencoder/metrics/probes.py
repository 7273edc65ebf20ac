"""Probes: how well a small classifier reads a label from a latent, whoever that latent was meant for."""

from dataclasses import dataclass

import torch
from torch import nn

from autoencoder.common.seeding import derive_seed

HIDDEN, EPOCHS, BATCH_SIZE, WEIGHT_DECAY, LEARNING_RATE = 128, 40, 100, 0.1, 1e-3
VALIDATION_SHARE = 5  # one in so many training clips chooses the epoch


@dataclass(frozen=True)
class Probe:
    """What a probe reads.

    Attributes:
        accuracy: share of the held-out clips whose label it reads, in [0, 1].
        chance: share of those with the label that is the most frequent one among them.
    """

    accuracy: float
    chance: float


def probe(
    latents: torch.Tensor, labels: torch.Tensor, held_out: torch.Tensor, held_out_labels: torch.Tensor, seed: int = 0
) -> Probe:
    """Train a classifier on the latents of training clips, and let it read those of held-out clips.

    It has one hidden layer of 128 units and sees every number of the latent, standardised. AdamW takes 40 epochs, of
    which the one with the lowest loss on a fifth of the training clips counts. The same seed gives the same result.

    Args:
        latents: (N, ...), one latent of each training clip.
        labels: int64 (N,), at least 0.
        held_out, held_out_labels: likewise, of held-out clips.
        seed: of initial weights, the fifth and the order of the clips.
    """
    train, test = (values.detach().float().cpu().flatten(1) for values in (latents, held_out))
    mean, scale = train.mean(dim=0), train.std(dim=0)
    # A number that does not vary in training tells nothing, and by its rounding error would drown all others.
    scale = torch.where(scale > 1e-6 * train.abs().amax(dim=0), scale, torch.inf)
    train, test = ((values - mean) / scale for values in (train, test))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "probe"))
        network = _fit(train, labels, int(torch.cat([labels, held_out_labels]).max()) + 1)
    with torch.no_grad():
        accuracy = (network(test).argmax(dim=1) == held_out_labels).double().mean().item()
    return Probe(accuracy, held_out_labels.bincount().max().item() / len(held_out_labels))


def _fit(values: torch.Tensor, labels: torch.Tensor, num_classes: int) -> nn.Module:
    network = nn.Sequential(nn.Linear(values.shape[1], HIDDEN), nn.GELU(), nn.Linear(HIDDEN, num_classes))
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    order = torch.randperm(len(values))
    validation, training = order.tensor_split([len(values) // VALIDATION_SHARE])
    loss = nn.functional.cross_entropy
    best, best_loss = {}, torch.inf
    for _ in range(EPOCHS):
        for batch in training[torch.randperm(len(training))].split(BATCH_SIZE):
            optimizer.zero_grad()
            loss(network(values[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            validation_loss = loss(network(values[validation]), labels[validation]).item()
        if validation_loss < best_loss:
            best, best_loss = {name: tensor.clone() for name, tensor in network.state_dict().items()}, validation_loss
    network.load_state_dict(best)
    return network
