"""Benchmarks: what the spine reaches, as ratios to what a careful person would write by hand.

`spine` runs them all on servers of its own and gives one report; `compare` sets two reports
side by side; `report` writes one into docs/benchmarks.md.  Run as ``coord bench`` or
``python -m coord.ops.bench``.

How it is kept honest:

* both sides of a ratio run in one process, on the same servers, in turns (A B A B …), and the
  figure is the median of the rounds' own ratios;
* a side without coord is written as well as its author could; where a choice helps one side,
  it helps that one, and the docstring of the figure says which;
* latency is measured in an open loop, from the moment a fact *should* have been published;
* whatever was not stored, projected or received ends the bench with an error: a fast wrong
  answer has no figure.
"""
