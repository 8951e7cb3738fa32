"""Settings: where they come from, and which of them hold."""
