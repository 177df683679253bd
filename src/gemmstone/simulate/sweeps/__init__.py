"""Sweeps: many simulations at once, on the cores of one machine or on a cluster, with the same answers."""
