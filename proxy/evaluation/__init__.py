"""Measuring strategies on questions whose answers are known: ask, grade, keep, sum up, draw.

Nothing here knows how the proxy is reached or started; that is the command's business.
"""
