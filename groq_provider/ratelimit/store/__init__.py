"""Where limits are kept that several processes share."""
