"""The serving engine in compiled code: continuous batching step by step, jumping over the steps in which nothing happens."""
