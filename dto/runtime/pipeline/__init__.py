"""Pipeline parallelism: schedules and cuts as pure functions, and what carries them out."""
