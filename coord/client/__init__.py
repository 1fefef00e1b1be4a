"""The SDK: connect, emit facts and samples, subscribe.

Users import it as `coord`; `coord.client.connect` is where to begin reading.
"""
