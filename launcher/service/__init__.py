"""What an instance needs to run for months: a session of its own, a log, a history, and word to those who wait."""
