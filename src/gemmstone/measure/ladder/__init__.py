"""The ladder of one matrix product on this machine: from the loop of a textbook to the fastest that is installed."""
