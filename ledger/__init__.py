"""The books: accounts, immutable transfers and the one function that changes a balance."""
