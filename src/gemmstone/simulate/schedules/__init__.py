"""Schedules below and beside the engine's steps: what overlaps inside a step, between devices, and over the life of a cache."""
