"""The resource as the user writes it: fields, names, conditions, every text about a mistake."""
