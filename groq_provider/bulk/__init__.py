"""Runs over many requests."""
