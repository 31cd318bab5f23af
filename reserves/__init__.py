"""Whether the money is all there: matching, reconciliation, attestation and proofs."""
