"""``make bench``: what the operator costs and how fast it is, against a floor in the same run.

The machine is noisy: contenders alternate, and each figure is judged as a ratio within its round.
"""
