"""How good a release is on held-out songs: reports, tables and contact sheets. Begin with `evaluate`."""
