"""What the server runs: steps, the program they form, and how it is executed."""
