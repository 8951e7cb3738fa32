"""What an instance needs to run for months: a unit, a history, and messages about its state."""
