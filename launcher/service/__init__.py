"""Support an instance that runs for months: a unit, a history, and messages about its state."""
