"""The NATS edge: connection, publishing, pulling, RPC and topology.

Invariant: no other package talks to nats-py, and nothing here decides what a message means.
"""

from __future__ import annotations

from coord.bus import websockets

websockets.put_off()
