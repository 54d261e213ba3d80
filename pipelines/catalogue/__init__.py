"""Manifests and folders of songs, read into the catalogue; the demo's songs. Begin with `catalogue`."""
