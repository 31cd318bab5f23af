"""The life cycle of a payment: ties the ledger, the chains and the banks together."""
