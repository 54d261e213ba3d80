"""The demo's catalogue: synthetic songs and covers with common traits. Begin with `catalogue`."""
