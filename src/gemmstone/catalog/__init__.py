"""Devices, models, engines, prices and fitted coefficients as data files with their sources, and how they are read."""
