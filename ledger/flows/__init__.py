"""Pay-ins and payouts through named accounts, and the exchange of currencies on the way."""
