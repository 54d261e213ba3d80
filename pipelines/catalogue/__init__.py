"""Which songs there are: manifests and folders read into the catalogue; the demo's songs. Begin with `catalogue`."""
