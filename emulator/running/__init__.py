"""A run: processes, their messages, faults, time and its budget."""
