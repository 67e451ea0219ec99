"""What is on disk, and nothing else: the schema, the commits, the tables, and the lake that reads them."""
