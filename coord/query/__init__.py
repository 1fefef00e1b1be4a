"""Answers to questions about the log and, later, the tables: what agents may ask without a database."""
