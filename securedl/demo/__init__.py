"""The demonstration, and the dishonest servers that it and the tests start."""
