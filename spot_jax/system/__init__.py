"""What a process has: its command line, errors that are for people, devices, memory, worker processes."""
