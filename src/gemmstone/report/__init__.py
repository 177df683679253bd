"""Results as terminal tables, HTML pages, JSON and CSV."""
