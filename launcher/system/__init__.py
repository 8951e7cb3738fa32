"""Wrap the operating system: files, locks, state folders."""
