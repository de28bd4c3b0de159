"""The same routes once the name that keeps the promise is used."""
