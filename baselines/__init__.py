"""What the method is compared with: one file a baseline."""
