"""From a job's description to a running job, and what people then ask of it."""
