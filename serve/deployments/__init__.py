"""Ray Serve deployments of a release: encoder, retriever, generator, and their handles. Begin with `release`."""
