"""What the PyTorch backend runs: operations as models call them, and their operands."""
