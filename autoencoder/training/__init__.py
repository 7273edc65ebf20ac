"""Stage one's training: the LightningModule, its losses, discriminator, config and data."""
