"""Sealed blocks of transfers: made, proven, verified."""
