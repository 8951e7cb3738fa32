"""How the app is kept running: what a service manager is given, and what it is told."""
