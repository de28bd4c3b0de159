"""A small invoicing and image studio: the service to copy from."""
