"""One fold is trained, as a generator of events: the exact step, its precision, schedule, state and checkpoints."""
