"""The decisions of coord, pure: state and inputs in, what to do out.

No module here reads a clock, draws a random number, opens a socket or awaits: time and
randomness are arguments, so a simulation can run a day of outages in a second.
"""
