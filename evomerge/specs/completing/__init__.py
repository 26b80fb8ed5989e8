"""What a file leaves out, and values for what it says."""
