"""The envelope: what an author states, what a reader gets, and the way between them.

One import for everybody else; the work is done in `records`, `encode` and `decode`.
"""

from coord.wire.attributes import valid_traceparent
from coord.wire.decode import Stored, decode_message
from coord.wire.encode import encode_fact, encode_frame, encode_sample
from coord.wire.records import Encoded, Fact, Poison, Sample, StoredFact, StoredSample
from coord.wire.times import format_time, parse_time

__all__ = [
    "Encoded",
    "Fact",
    "Poison",
    "Sample",
    "Stored",
    "StoredFact",
    "StoredSample",
    "decode_message",
    "encode_fact",
    "encode_frame",
    "encode_sample",
    "format_time",
    "parse_time",
    "valid_traceparent",
]
