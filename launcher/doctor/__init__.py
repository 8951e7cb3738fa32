"""Find everything that is wrong or odd about an app and its machine, and change nothing."""
