"""YAML as a tree whose values know where they stand: read, resolved and written."""
