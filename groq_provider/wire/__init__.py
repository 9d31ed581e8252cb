"""The wire, pure: bytes, headers and numbers in, values out. No socket, no thread, no clock."""
