"""The command line: verbs, terminal output, checks of a machine. Nothing imports it. Begin with `main`."""
