"""Deciding when a request may go out."""
