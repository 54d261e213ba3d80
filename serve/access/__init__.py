"""Who calls the endpoint, and what they may: keys, scopes, rates, usage and audit; begin with authorization.py."""
