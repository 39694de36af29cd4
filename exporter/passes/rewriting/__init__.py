"""What passes share: reading patterns and writing nodes."""
