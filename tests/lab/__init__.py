"""Several hosts on one machine, as bare as a provider hands them over."""
