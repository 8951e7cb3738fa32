"""What an instance needs to run for months: a session or a unit of its own, a log, a history, and word of how it is."""
