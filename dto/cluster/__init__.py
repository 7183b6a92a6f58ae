"""Clusters: the record that describes one, and what makes, changes and watches it."""
