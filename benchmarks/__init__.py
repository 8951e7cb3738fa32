"""Every speed claim, as a ratio or a difference measured beside its alternative in the same run."""
