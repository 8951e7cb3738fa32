"""Which model runs: what `models.lock` pins, what lies on the disk, and what the mirror and the Hub say."""

JOURNAL = "switch-"
"""What the journals of switches begin with in the state folder: a launch looks for one each time."""
