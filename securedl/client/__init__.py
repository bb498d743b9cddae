"""The side that holds the secret key: owner, inference, and what verifies the answers."""
