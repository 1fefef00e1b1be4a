"""The composition root: command line, settings, dev stack.  The only reader of environment and files."""
