"""The machine below: files, locks, where state is kept."""
