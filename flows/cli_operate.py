"""Commands for whoever runs it: what is going on, and what is wrong."""
