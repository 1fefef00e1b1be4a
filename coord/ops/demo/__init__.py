"""`coord demo`: a fleet that reviews a source tree, and the answers out of TimescaleDB.

`review` looks at one file and knows nothing of coord; `fleet` is the agents, each with its
own connection, in processes of their own; `run` starts the stack, shows the progress and
asks the database.
"""
