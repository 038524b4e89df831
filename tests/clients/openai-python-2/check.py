"""What the official Python client, 2.x, sees of tally."""

from openai_checks import run

run("openai-python-2")
