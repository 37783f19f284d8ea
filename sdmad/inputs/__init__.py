"""What users write: the sign catalog, the label table, and the supports drawn from it."""
