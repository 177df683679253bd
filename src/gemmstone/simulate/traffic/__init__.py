"""What is sent to a serving system: drawn, replayed from files, or drawn as a file was."""
