"""What runs in a trainer's environment, as a process of its own: its modules, and stand-ins."""
