"""One file per command; cli imports the one that is called."""
