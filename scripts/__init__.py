"""Programs to start from the repository's root: `python -m scripts.launch_local`."""
