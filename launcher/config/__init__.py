"""Read settings: their sources and their precedence."""
