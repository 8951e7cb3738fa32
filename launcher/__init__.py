"""The launcher that every Gradio web UI should have had.

Values are NamedTuples throughout: importing dataclasses and making two dozen of them was a fifth of a plain launch.
"""

__version__ = "0.1.0"
