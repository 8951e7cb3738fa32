"""A launcher for Gradio web UIs.

Values are NamedTuples: importing dataclasses and creating two dozen of them took a fifth of a plain launch.
"""

__version__ = "0.1.0"
