"""What is read of the books: which accounts, their balances now and then, their transactions."""
