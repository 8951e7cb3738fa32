"""What is run by hand to make a part of the repository; it is not installed."""
