"""Caches that know when they are wrong.

`memory` holds values within a bound of bytes; `loading` decides, by `coord.core.eviction`, what is served, joined,
loaded and kept; `keys` makes keys of arguments; `functions` is the decorator.  Nothing here knows of a broker or a
database: notices are fed in as bytes, loaders are the caller's.
"""
