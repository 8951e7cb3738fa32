"""Know which model runs: the pin in `models.lock`, the files on the disk, and the answers of the mirror and the Hub."""

LOCKFILE = "models.lock"
"""The name of the lock file in the app's folder."""
JOURNAL = "switch-"
"""The prefix of the journals of switches in the state folder; every launch looks for one."""
