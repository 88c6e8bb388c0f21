"""ROLL's own code on a pool: ``make roll ROLL_SOURCE=…`` (see ``__main__``).

What runs in ROLL's environment (torch, ray and the rest) is in ``inside``; everything else runs in
the project's own.  Nothing of ROLL is copied: a checkout is pointed at.
"""
