"""What every request passes before its route: host names, keys, limits of bodies, security headers."""
