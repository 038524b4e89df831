"""What tally costs, beside what others cost: `python -m tests.bench`. Not part of the test run."""
