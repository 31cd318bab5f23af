"""Chains: building, signing, broadcasting and following transactions, whatever they pay for."""
