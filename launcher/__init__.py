"""The launcher that every Gradio web UI should have had."""

__version__ = "0.1.0"
