"""Metrics, logs and trace context: every name of them in one place, nothing that does I/O by itself."""
