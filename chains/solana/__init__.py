"""Solana: several payments in one transaction, followed by signature, signed anew only when that is safe."""
