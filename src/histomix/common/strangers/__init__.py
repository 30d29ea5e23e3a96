"""What is looked at in files of strangers before a library reads them."""
