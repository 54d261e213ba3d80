"""Metrics of retrieval and generation, and how far chance may move them. Begin with `metrics`."""
