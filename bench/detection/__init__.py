"""What checks notice of what a server, or whoever alters a network, does."""
