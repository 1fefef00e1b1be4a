"""A NATS server in memory: the protocol's bytes, subjects, requests and what coord uses of JetStream.

Clients are the usual ones (`coord.bus`), over a transport without sockets: whatever speaks through a
`Connection` runs unchanged.  `tests/contract/test_bus_conformance.py` holds this and nats-server to
one suite; what is not in there is not claimed.

It is one server without a cluster, without permissions, and keeps everything in memory.
"""
