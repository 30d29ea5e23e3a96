"""What the site has beyond the Markdown pages: parts that are generated from the program."""
