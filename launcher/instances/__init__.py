"""The app's running instances: which processes they are, who holds the port, and how they are stopped."""
