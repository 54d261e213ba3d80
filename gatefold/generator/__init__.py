"""New covers from a song's nearest covers: kinds of generators, attribution, originality. Begin with `interface`."""
