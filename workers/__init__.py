"""Background work: the broker, one module of actors a queue, the outbox relay and the scheduler."""
