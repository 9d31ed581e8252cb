"""Requests over kept connections: requests' adapter, urllib3's pools, our time limits and interruptions."""
