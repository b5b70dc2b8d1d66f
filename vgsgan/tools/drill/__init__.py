"""Drills that break a real run and check that it recovers."""
