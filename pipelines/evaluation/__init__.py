"""Evaluation of a release on held-out songs: reports, tables and contact sheets. Begin with `evaluate`."""
