"""Gemmstone: how fast, how much memory, how many joules, dollars and grams of CO2 a large language model takes, on any hardware."""

__version__ = "0.1.0"
