"""What runs, in what order: the flows, their engines, the command line and the Python entry."""
