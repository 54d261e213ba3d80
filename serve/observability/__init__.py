"""What an operator sees of the running endpoint: metrics, fields of log records, traces. Begin with `metrics`."""
