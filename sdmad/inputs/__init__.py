"""What users write: sign catalogs and label tables, and the supports drawn from them."""
