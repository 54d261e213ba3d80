"""Stages that map every track of the catalogue to rows: spectrograms, covers, embeddings. Begin with `blocks`."""
