"""The doctor: checks of this machine, the lake and the services, each with what to do about it."""
