"""What is trained or measured."""
