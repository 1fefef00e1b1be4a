"""``coord replay``: a recorded run, of coord or of something else, put into a log.

recording   what a format yields: statements, and problems named by line
names       foreign names mapped to subject tokens
source      the file: numbered lines or whole documents, in bounded memory
formats/    one small module a format
bookmark    how far a replay has got, kept in stream CURSORS
speakers    the agents of the recording, each with a publisher of its own
driver      paces, publishes in order per key, and goes on where it stopped
"""
