"""One module for each figure of what is to be shown; each has `measure(stage)`."""
