"""What every part of Coffer stands on: settings, database, money, identifiers, events, secrets, telemetry."""
