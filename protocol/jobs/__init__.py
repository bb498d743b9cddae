"""Many rows of a file, asked in shares: by one client, or by the processes of a Ray cluster."""
