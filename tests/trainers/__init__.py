"""slime's, miles' and AReaL's own modules on a pool's engines: ``make trainers``.

What runs in a trainer's environment (torch, ray and the rest) is in ``inside``; everything else
runs in the project's own.  Nothing of theirs is copied: checkouts are pointed at.
"""
