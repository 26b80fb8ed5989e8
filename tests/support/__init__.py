"""What tests share: fixtures, files written on the spot, and processes to kill."""
