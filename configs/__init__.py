"""Values: what a user may set, its defaults and its meaning. Nothing here runs the method."""
