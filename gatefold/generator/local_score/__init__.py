"""`generator.kind: local-score`: exact diffusion on the pixels of a song's nearest covers. Begin with `pipeline`."""
