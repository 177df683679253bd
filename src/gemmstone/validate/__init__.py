"""How wrong the predictions are: published measurements, or a user's own, beside what is predicted for the same case."""
