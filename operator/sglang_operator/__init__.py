"""A Kubernetes operator for pools of SGLang engines that serve RL trainers.

The packages read in the direction the data flows, and import only from those before them:
``api`` (what the user wrote) → ``roll`` (ROLL's side) → ``engine`` (SGLang's side) → ``planner``
(decisions) → ``desired`` (objects) → ``actions`` → ``status`` → ``cluster`` (effects) →
``controller`` (the loop).  Everything before ``cluster`` is pure.
"""

__version__ = "0.1.0"
