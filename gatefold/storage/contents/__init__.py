"""Contents of a workspace besides tables and models: catalogue, covers, opt-outs, releases. Begin with `releases`."""
