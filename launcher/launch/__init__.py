"""A launch, step by step."""
