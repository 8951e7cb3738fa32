"""What the commands and the launch share."""
