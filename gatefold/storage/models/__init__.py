"""Bundles to modules and back: encoders, indexes, generators, and a whole release. Begin with `loaded_release`."""
