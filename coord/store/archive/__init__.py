"""The archive: chunks of facts and samples as Parquet, verified by reading back before they leave the database.

`run` does what is due and may be killed at any moment; `coord.core.archive` says what is due and has the
picture.  `cold` reads, `restore` brings rows back.  pyarrow (the extra `archive`) is imported when a
file is touched, not before.
"""
