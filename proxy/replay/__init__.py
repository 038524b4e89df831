"""Recorded samples played through the very batches that serve live requests: what a strategy costs, and what it gains.

It reads pools, deals their samples to the batches of `proxy.core` instead of an upstream's, and counts. It knows
nothing of the live rooms: no socket, no ledger, no clock.
"""
