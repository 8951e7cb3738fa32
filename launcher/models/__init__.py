"""Which model runs: what `models.lock` pins, what lies on the disk, and what the mirror and the Hub say."""
