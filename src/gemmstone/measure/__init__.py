"""Runs real things on this machine: kernels, memory, links, power meters."""
