"""Choosing a deployment: legal candidates, search, and the command that starts the winner."""
