"""Launch the app, step by step."""
