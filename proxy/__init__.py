"""tally: an OpenAI-compatible proxy that makes any model more accurate for a budget."""

__version__ = "0.1.0"
