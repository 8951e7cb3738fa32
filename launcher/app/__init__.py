"""Build the app's start from the settings: its command, its environment, its locks, and the exec."""
