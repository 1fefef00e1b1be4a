"""The servers that coord needs, on a machine with nothing prepared."""
