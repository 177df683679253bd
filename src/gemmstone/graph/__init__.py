"""A model, a deployment and a step become operations and memory. Families say what an architecture is made of."""
