"""Money that comes in: found on the chains, booked once it is final, brought from deposit addresses to the
treasury."""
