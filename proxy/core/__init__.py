"""The algorithms, sans-IO: which query deserves the next draw, when to stop, and who won."""
