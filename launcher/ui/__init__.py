"""What a person sees: the console, words, masking, and how the launcher was called."""
