"""The parser and the converter under anything: coverage-guided, for as long as one likes."""
