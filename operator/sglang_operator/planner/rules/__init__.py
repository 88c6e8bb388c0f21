"""The rules of a plan, each in a file of its own; ``planner.plan`` has their order.  Pure."""
