"""Encoders and generators trained by Ray Train, from the catalogue's tables to bundles. Begin with `train_encoder`."""
