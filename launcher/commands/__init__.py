"""One file per command; cli imports only the called one."""
