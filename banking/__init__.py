"""Banks: statement formats in, payment files out, and the protocol a bank connection speaks."""
