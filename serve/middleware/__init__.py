"""Middleware before every route: host names, keys, limits of bodies, security headers. Begin with `intake`."""
