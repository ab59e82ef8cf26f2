"""Discriminators of the GAN losses: modules that map audio [B, S] to one or more `DiscriminatorOutput`s each."""
