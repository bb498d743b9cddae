"""What `compile` gives: program, signature and secret weights, with layouts, simulation and files."""
