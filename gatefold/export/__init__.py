"""From a generated cover to a file for the stores: profiles, lettering, preflight, disclosure, content credentials.

`export.py` is the first to read. Nothing here knows of generators, workspaces, the command line or HTTP.
"""
