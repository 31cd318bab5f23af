"""Monitors: what is worth a look among the transfers, found by a worker that trails the books."""
