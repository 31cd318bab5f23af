"""Statements as files: each format is a module that writes one stream of lines."""
