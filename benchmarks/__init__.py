"""Every speed claim, as a ratio to its alternative or a difference from it, measured in the same run."""
