"""What lies in a workspace besides tables and models: catalogue, covers, opt-outs, releases."""
