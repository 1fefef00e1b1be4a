"""The NATS edge: connection, publishing, pulling, RPC and topology.

Invariant: no other package talks to nats-py, and nothing here decides what a message means.
"""
