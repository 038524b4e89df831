"""What a client of the original may count on, for every strategy, whole and streamed, through the official client.

One behaviour a test. Each is asked ten ways unless its decorator says which strategies or forms it has no meaning for,
and why. What `tally serve` itself does before the application (408 and 431 of its headers) stands in `test_limits`,
a full server's 503 too.
"""
