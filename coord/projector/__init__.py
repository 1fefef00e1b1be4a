"""From the log to the tables: exactly once, in order per key, near COPY speed.

`partition` owns the order of things (receive → decode → commit → acknowledge → notice);
`rows` turns deliveries into rows and decides nothing about I/O; `writer` performs one
transaction; `replicas` shares partitions; `service` ties them together.

Invariant: nothing is acknowledged, and no notice sent, before its commit.
"""
