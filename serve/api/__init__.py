"""The HTTP API: routes, the bodies they take and give, errors, and the page. Begin with `application`."""
