"""What the service offers beside chat."""
