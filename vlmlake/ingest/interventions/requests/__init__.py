"""What can be asked for, and the conditions that it comes to."""
