"""Measurements of Coffer against the sandbox; each module's `run` answers with figures."""
