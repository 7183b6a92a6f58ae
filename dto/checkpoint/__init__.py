"""Checkpoints that are whole or absent: what they hold, where they lie, how they are trusted."""
