"""One call: arguments to answer."""
