"""The operations that commands and the launch share."""
