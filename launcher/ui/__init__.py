"""Define what a person sees: the console, words, masking, and hints in the form of the user's call."""
