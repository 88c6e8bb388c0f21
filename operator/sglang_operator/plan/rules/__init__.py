"""The rules of a plan, one file each; ``plan.plan.RULES`` is their order.  Pure."""
