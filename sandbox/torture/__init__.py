"""A campaign of faults against the whole system, and what it must leave true: nothing lost, nothing twice."""
