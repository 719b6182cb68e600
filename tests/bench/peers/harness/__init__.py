"""Starts proxies, measures them in turns, and prints tables."""
