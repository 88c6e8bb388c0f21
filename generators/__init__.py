"""What writes the generated files of the tree: each package or module here is one ``make`` target.

They run in a checkout, import the operator and its test kit, and nothing imports them but tests,
which compare each generated file with what its generator would write now.
"""
