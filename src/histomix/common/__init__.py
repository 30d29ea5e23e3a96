"""What every room needs and none owns: names made from strangers' text, locks, AnnData files."""
