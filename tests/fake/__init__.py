"""The parts of the fake upstream; tests import them from `tests.fake_upstream`."""
