"""The recipes as the guide has them, without Clearway, in our own words and code."""
