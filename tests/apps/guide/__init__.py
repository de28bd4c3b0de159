"""The guide's seven recipes: `before` as people write them, `after` once our names are used."""
