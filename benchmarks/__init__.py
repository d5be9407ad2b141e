"""Measurements, one module each: `make bench` runs those whose name does not begin with `_`."""
