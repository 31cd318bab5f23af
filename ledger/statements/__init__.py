"""Statements of a period in several formats, and the export of the whole history."""
