"""What changed between answers, and why: the difference of their inputs, metrics and trees. Knows documents, no physics."""
